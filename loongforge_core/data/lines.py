"""The lines of a file, read when they are needed.

Of a file of any size, a process holds nothing but the pages that it has read of its index (`line_index.py`), and these are shared by all
processes of a machine. The index lies beside the data, as `train.jsonl.index`, or where that cannot be written in a folder of the run's.
That a line is still where it was is seen whenever it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loongforge_core.data.line_index import (
    DIGEST,
    HEADER,
    LONGEST_LINE,
    NUM_LINES,
    SIZE,
    UnreadableFile,
    mapped_index,
    save_index,
    unreadable,
    write_index,
)
from loongforge_core.errors import DataError

__all__ = ["Lines", "is_large", "open_lines"]

logger = logging.getLogger(__name__)

# Up to this size a file is looked through at each start, in a tenth of a second, and nothing is written.
INDEXED_BYTES = 64 * 2**20
# How files begin that hold conversations, but not as lines of text.
OTHER_KINDS = {
    b"\x1f\x8b": "compressed with gzip: unpack it, so that a line can be read without all before it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it, so that a line can be read without all before it",
    b"\xfd7zXZ\x00": "compressed with xz: unpack it, so that a line can be read without all before it",
    b"BZh": "compressed with bzip2: unpack it, so that a line can be read without all before it",
    b"PK\x03\x04": "a ZIP archive: unpack it",
    b"PAR1": "a Parquet file: write its rows as JSON lines",
    b"\xff\xfe": "text in UTF-16: write it as UTF-8",
    b"\xfe\xff": "text in UTF-16: write it as UTF-8",
}


class Lines:
    """The lines of one file that are not blank. A line ends with `\\n`, of which the last one may go without."""

    def __init__(self, path: Path, index: np.ndarray, mapped: Path | None = None) -> None:
        """`index` is as `write_index` makes it; `mapped` is the file that it is mapped from."""
        self.path = path
        self.mapped = mapped
        self._index = index
        end = HEADER + int(index[NUM_LINES]) + 1
        self.starts = np.asarray(index[HEADER:end])
        """Where each line begins, and where the file ends."""
        self._blanks = np.asarray(index[end:])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self._index[SIZE])

    @property
    def digest(self) -> str:
        """`data_digest` of the file when its lines were found."""
        return self._index[DIGEST].tobytes().hex()

    def number(self, line: int) -> int:
        """Which line of the file this is, as editors count: blank ones too, from 1."""
        return line + 1 + int(np.searchsorted(self._blanks, line, side="right"))

    def read(self, line: int) -> bytes:
        """Raises UnreadableFile where the file cannot be read, or is no longer what it was, and DataError for a line that is too long."""
        start, end = int(self.starts[line]), int(self.starts[line + 1])
        if end - start > LONGEST_LINE:
            raise DataError(
                f"{self.path}:{self.number(line)}: a line of {end - start:,} bytes; expected JSON lines, each a conversation, of at most "
                f"{LONGEST_LINE:,} bytes"
            )
        before = min(start, 1)  # the end of the line before, or nothing
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(start - before)
                content = read_exactly(file, end - start + before)
        except OSError as error:
            raise unreadable(self.path, error) from error
        text = content[before:].rstrip()  # blank lines may follow
        if len(content) != end - start + before or content[:before] not in (b"", b"\n") or not text or b"\n" in text:
            kept = f", and delete {self.mapped}" if self.mapped else ""
            raise UnreadableFile(f"{self.path}:{self.number(line)}: the file has changed since its lines were found; start again{kept}")
        return text

    def __reduce__(self) -> tuple[object, ...]:
        """To a worker process goes the index's name, not what it holds."""
        if self.mapped is None:
            return Lines, (self.path, self._index)
        return mapped_again, (self.path, self.mapped, self._index[:HEADER].tobytes())


def open_lines(path: Path, *, elsewhere: Path | None = None) -> Lines:
    """The lines of a file. Of a large one, `path.index` is read, or written if need be: there, else in the folder `elsewhere`.

    Raises DataError for a file that is missing or empty, and for one that holds no lines of text.
    """
    try:
        status = path.stat()
        with path.open("rb") as file:
            beginning = file.read(8)
    except OSError as error:
        raise unreadable(path, error) from error
    if kind := next((kind for mark, kind in OTHER_KINDS.items() if beginning.startswith(mark)), None):
        raise DataError(f"{path}: expected JSON lines, but this file is {kind}")
    places = index_places(path, elsewhere) if status.st_size > INDEXED_BYTES else []
    for place in places:
        if (index := mapped_index(place, status)) is not None:
            return Lines(path, index, place)
    for place in places:
        with contextlib.suppress(OSError):  # not to be written, or full: then the next
            save_index(path, place)
            if (index := mapped_index(place, path.stat())) is not None:
                return Lines(path, index, place)
    if places:
        logger.warning("%s: every process holds the index of its lines, which cannot be written: %s", path, listed(places))
    memory = io.BytesIO()
    write_index(path, memory)
    return Lines(path, np.frombuffer(memory.getvalue(), dtype="<i8"))


def is_large(path: Path) -> bool:
    """Whether an index of it is kept."""
    return path.is_file() and path.stat().st_size > INDEXED_BYTES


def listed(places: Sequence[Path]) -> str:
    return " or ".join(map(str, places))


def index_places(path: Path, elsewhere: Path | None) -> list[Path]:
    beside = path.with_name(f"{path.name}.index")
    if elsewhere is None:
        return [beside]
    named = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]  # files of one name lie in several folders
    return [beside, elsewhere / f"{path.name}.{named}.index"]


def mapped_again(path: Path, place: Path, header: bytes) -> Lines:
    """In a worker process. Another run may have written the same index again meanwhile, but no other one."""
    try:
        index = np.memmap(place, dtype="<i8", mode="r")
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{place}: the index of {path} is gone: {error}") from error
    if index[:HEADER].tobytes() != header:
        raise UnreadableFile(f"{path} has changed since its lines were found; start again")
    return Lines(path, index, place)


def read_exactly(file: io.FileIO, count: int) -> bytes:
    """Fewer bytes only where the file ends; one call may give fewer on a network's disk."""
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
