"""Where the lines of a file begin, found once and kept in a file: eight bytes a line, mapped into memory and never read whole.

Header; where each line begins that is not blank, and where the file ends; of each blank line, how many others are before it. An index is
written beside its name and renamed, so that two runs may begin at once, and belongs to one size and time of change of its data file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from loongforge_core.errors import DataError

__all__ = [
    "DIGEST",
    "HEADER",
    "LONGEST_LINE",
    "NUM_LINES",
    "SIZE",
    "UnreadableFile",
    "data_digest",
    "mapped_index",
    "save_index",
    "unreadable",
    "write_index",
]

# A data file is digested whole up to this size, and beyond it in blocks from its beginning to its end: a start may not take minutes.
WHOLE_BYTES = 256 * 2**20
NUM_BLOCKS = 64

LONGEST_LINE = 256 * 2**20
"""In bytes. A line that is longer is no conversation, but a file of another kind."""
BLOCK = 8 * 2**20
"""Bytes that are looked through at once."""

# The header: these, then the digest's 32 bytes, then zeros.
MAGIC, SIZE, TIME, NUM_LINES, NUM_BLANKS = range(5)
FORMAT = int.from_bytes(b"lines  1", "little")
DIGEST = slice(5, 9)
HEADER = 16

NEWLINE = ord("\n")
IS_SPACE = np.isin(np.arange(256), list(b" \t\r\n\v\f"))


class UnreadableFile(DataError):
    """What stands in the file cannot be known: it is gone, or not what it was. It is not about one line."""


def mapped_index(place: Path, status: os.stat_result) -> np.ndarray | None:
    """The index in this file, if it is one of a data file of this size and time of change."""
    try:
        index = np.memmap(place, dtype="<i8", mode="r")
    except (OSError, ValueError):
        return None
    if len(index) < HEADER or index[MAGIC] != FORMAT or (index[SIZE], index[TIME]) != (status.st_size, status.st_mtime_ns):
        return None
    return index if index[NUM_LINES] > 0 <= index[NUM_BLANKS] and len(index) == HEADER + index[NUM_LINES] + 1 + index[NUM_BLANKS] else None


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


def stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UnreadableFile:
    return UnreadableFile(f"{path}: cannot read this data file: {error.strerror}")
