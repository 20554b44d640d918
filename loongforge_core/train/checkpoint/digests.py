"""Digests of a checkpoint's files, by which a flipped bit is found before anything of it is read.

They stand in the checkpoint's record, which has one of itself. They say that files are as they were written, not by whom: whoever makes
a checkpoint makes its digests too, so that what may stand in one is a matter of its own (`refuse_code.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import distributed

from loongforge_core.errors import CheckpointError
from loongforge_core.train.disk import for_all

__all__ = ["Digest", "digests_of", "verify"]

OF_ONE_RANK = re.compile(r"__(\d+)_\d+\.distcp")
"""What Megatron's ranks write by themselves, by number; everything else is rank 0's."""
READ_IF_THERE = re.compile(r".*\.distcp|.*\.pt|metadata\.json|\.metadata")
"""What Megatron and torch would read of a checkpoint. What else somebody puts beside it, such as notes, nobody reads."""
READERS = 4
"""Threads of a rank, each at a file of its own: one reads no more than a gigabyte or two a second."""
SHOWN = 3
"""Files that are named in a message."""
SHOWN_DIGITS = 12
"""Of a digest."""


@dataclass(frozen=True)
class Digest:
    """What one file holds."""

    length: int
    """In bytes."""
    sha256: str
    """In hexadecimal digits."""

    def __post_init__(self) -> None:
        if not (isinstance(self.length, int) and isinstance(self.sha256, str)):
            raise TypeError(f"length and sha256 of a file are a number and digits, not {self.length!r} and {self.sha256!r}")


def digest_of(path: Path) -> Digest:
    """Reads it piece by piece."""
    with path.open("rb") as file:
        return Digest(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def names_in(folder: Path) -> set[str]:
    return {(Path(place) / name).relative_to(folder).as_posix() for place, _, names in os.walk(folder) for name in names}


# ---- saving


def digests_of(folder: Path) -> dict[str, Digest]:
    """Of all files of a checkpoint that was just written. All ranks call it, and each reads what it has written itself.

    Raises OSError, on all ranks, where one cannot read.
    """
    own: dict[str, Digest] = {}
    why = ""
    try:
        names = [name for name in names_in(folder) if writer_of(name) == distributed.get_rank()]
        with ThreadPoolExecutor(READERS) as readers:
            own = dict(zip(names, readers.map(digest_of, (folder / name for name in names)), strict=True))
    except OSError as error:
        why = error.strerror or str(error)
    found = [(own, why)] * distributed.get_world_size()
    distributed.all_gather_object(found, (own, why))
    if reasons := {rank: why for rank, (_, why) in enumerate(found) if why}:
        raise OSError(for_all(reasons))
    return dict(sorted((name, digest) for digests, _ in found for name, digest in digests.items()))


def writer_of(name: str) -> int:
    return int(match[1]) if (match := OF_ONE_RANK.fullmatch(name)) else 0


# ---- loading


def verify(folder: Path, files: Mapping[str, Digest], *, instead: Callable[[], str]) -> None:
    """Raises CheckpointError, on all ranks, where what is read of `folder` is anything else than `files`, which ranks read between them.

    `instead` is what to say of other checkpoints. Without `files` nothing is read: so it is of a checkpoint that was written before
    there were digests.
    """
    if not files:
        return
    rank, largest_first = distributed.get_rank(), sorted(files, key=lambda name: (-files[name].length, name))
    with ThreadPoolExecutor(READERS) as readers:
        own = [text for text in readers.map(partial(damage, folder, files), largest_first[rank :: distributed.get_world_size()]) if text]
    if rank == 0:
        others = sorted(name for name in names_in(folder) - files.keys() if READ_IF_THERE.fullmatch(name))
        own += [f"{name} was not written with it: remove it" for name in others]
    found = [own] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    if said := [text for texts in found for text in texts]:
        more = f", and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
        raise CheckpointError(f"{folder} is not as it was written: {', '.join(said[:SHOWN])}{more}; {instead()}")


def damage(folder: Path, files: Mapping[str, Digest], name: str) -> str:
    """What is wrong with one of `files`; nothing where it is as it was."""
    path, expected = folder / name, files[name]
    try:
        if not path.is_file():
            return f"{name} is missing"
        if (length := path.stat().st_size) != expected.length:
            return f"{name} has {length} bytes, expected {expected.length}"
        found = digest_of(path).sha256
    except OSError as error:
        return f"{name} cannot be read: {error.strerror or error}"
    if found == expected.sha256:
        return ""
    return f"{name} has SHA-256 {found[:SHOWN_DIGITS]}..., expected {expected.sha256[:SHOWN_DIGITS]}..."
