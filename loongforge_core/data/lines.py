"""The lines of a file, read when they are needed: where each begins is found once, kept in a file and mapped from there.

Of a file of any size, a process holds nothing but the pages that it has read of its index, eight bytes a line, and these are shared by all
processes of a machine. The index lies beside the data, as `train.jsonl.index`, or where that cannot be written in a folder of the run's.
It is written beside its name and renamed, so that two runs may begin at once, and belongs to one size and time of change of its file.
That a line is still where it was is seen whenever it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from loongforge_core.errors import DataError

__all__ = ["Lines", "UnreadableFile", "data_digest", "is_large", "open_lines"]

logger = logging.getLogger(__name__)

# Up to this size a file is looked through at each start, in a tenth of a second, and nothing is written.
INDEXED_BYTES = 64 * 2**20
# A data file is digested whole up to this size, and beyond it in blocks from its beginning to its end: a start may not take minutes.
WHOLE_BYTES = 256 * 2**20
NUM_BLOCKS = 64

LONGEST_LINE = 256 * 2**20
"""In bytes. A line that is longer is no conversation, but a file of another kind."""
BLOCK = 8 * 2**20
"""Bytes that are looked through at once."""

# Header of an index: these, then the digest's 32 bytes, then zeros.
MAGIC, SIZE, TIME, NUM_LINES, NUM_BLANKS = range(5)
FORMAT = int.from_bytes(b"lines  1", "little")
DIGEST = slice(5, 9)
HEADER = 16

NEWLINE = ord("\n")
IS_SPACE = np.isin(np.arange(256), list(b" \t\r\n\v\f"))
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


class UnreadableFile(DataError):
    """What stands in the file cannot be known: it is gone, or not what it was. It is not about one line."""


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


def mapped_index(place: Path, status: os.stat_result) -> np.ndarray | None:
    """The index in this file, if it is one of a data file of this size and time of change."""
    try:
        index = np.memmap(place, dtype="<i8", mode="r")
    except (OSError, ValueError):
        return None
    if len(index) < HEADER or index[MAGIC] != FORMAT or (index[SIZE], index[TIME]) != (status.st_size, status.st_mtime_ns):
        return None
    return index if index[NUM_LINES] > 0 <= index[NUM_BLANKS] and len(index) == HEADER + index[NUM_LINES] + 1 + index[NUM_BLANKS] else None


def mapped_again(path: Path, place: Path, header: bytes) -> Lines:
    """In a worker process. Another run may have written the same index again meanwhile, but no other one."""
    try:
        index = np.memmap(place, dtype="<i8", mode="r")
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{place}: the index of {path} is gone: {error}") from error
    if index[:HEADER].tobytes() != header:
        raise UnreadableFile(f"{path} has changed since its lines were found; start again")
    return Lines(path, index, place)


def save_index(path: Path, place: Path) -> None:
    """All or nothing. Raises OSError where it cannot be written, DataError where the data cannot be read."""
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    try:
        with open(descriptor, "wb") as file:
            write_index(path, file)
            os.fchmod(file.fileno(), path.stat().st_mode & 0o666)  # whoever reads the data reads its index
        os.replace(name, place)
    except BaseException:
        os.unlink(name)
        raise


def write_index(path: Path, stream: BinaryIO) -> None:
    """Header; where each line begins that is not blank, and where the file ends; of each blank line, how many others are before it."""
    status = stat(path)
    header, count, blanks = np.zeros(HEADER, "<i8"), 0, [np.zeros(0, "<i8")]
    stream.write(header.tobytes())
    for starts, is_blank in found_lines(path):
        stream.write(starts[~is_blank].astype("<i8").tobytes())
        blanks.append(count + (~is_blank).cumsum()[is_blank])
        count += int((~is_blank).sum())
    if not count:
        raise DataError(f"{path}: the data file is empty; expected JSON lines with `messages`")
    stream.write(np.array([status.st_size], "<i8").tobytes())
    stream.write(np.concatenate(blanks).astype("<i8").tobytes())
    header[[MAGIC, SIZE, TIME, NUM_LINES, NUM_BLANKS]] = FORMAT, status.st_size, status.st_mtime_ns, count, sum(map(len, blanks))
    header[DIGEST] = np.frombuffer(bytes.fromhex(data_digest(path)), "<i8")
    stream.seek(0)
    stream.write(header.tobytes())
    after = stat(path)
    if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
        raise DataError(f"{path}: something writes to this data file while it is read")


def found_lines(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Block by block, where lines begin, and whether they are blank."""
    position, begins = 0, True
    try:
        with path.open("rb", buffering=0) as file, path.open("rb") as again:
            while block := file.read(BLOCK):
                content = np.frombuffer(block, np.uint8)
                starts = np.flatnonzero(content == NEWLINE) + 1
                if begins:
                    starts = np.concatenate([[0], starts])
                if begins := bool(starts.size) and starts[-1] == len(block):
                    starts = starts[:-1]
                is_blank = IS_SPACE[content[starts]]
                for place in np.flatnonzero(is_blank):  # what begins with a space may go on with something
                    if content[starts[place]] != NEWLINE:
                        again.seek(position + int(starts[place]))
                        is_blank[place] = not again.readline(LONGEST_LINE).strip()
                yield starts + position, is_blank
                position += len(block)
    except OSError as error:
        raise unreadable(path, error) from error


def data_digest(path: Path) -> str:
    """Of what the file says, wherever it lies. Above `WHOLE_BYTES`, an edit between two blocks goes unnoticed if it leaves the size."""
    size, block = stat(path).st_size, WHOLE_BYTES // NUM_BLOCKS
    starts = range(0, size, block) if size <= WHOLE_BYTES else [(size - block) * number // (NUM_BLOCKS - 1) for number in range(NUM_BLOCKS)]
    content = hashlib.sha256(str(size).encode())
    try:
        with path.open("rb") as file:
            for start in starts:
                file.seek(start)
                content.update(file.read(block))
    except OSError as error:
        raise unreadable(path, error) from error
    return content.hexdigest()


def read_exactly(file: io.FileIO, count: int) -> bytes:
    """Fewer bytes only where the file ends; one call may give fewer on a network's disk."""
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UnreadableFile:
    return UnreadableFile(f"{path}: cannot read this data file: {error.strerror}")
