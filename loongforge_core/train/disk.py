"""The disk that a run writes to: whether it can be written to and has room, asked before the first step, and what is said when it fails.

What torch and Megatron say of a full disk is "unexpected pos 704 vs 598", or "error: <class 'OSError'>". So the reason is found by trying:
where a rank could not write a checkpoint, it writes a little more, by itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import distributed

from loongforge_core.errors import InputError, LoongForgeError

__all__ = ["by_first_rank", "bytes_of", "could_not_write", "for_all", "readable_size", "require_writable", "shortage", "why_not", "writing"]

PROBE_BYTES = 2**20
"""What a rank tries to write to find out why it cannot. A write that a disk has no room for fills it to less than that."""
SHOWN = 3
"""Ranks that are named in a message."""

# ---- before the first step


def require_writable(folder: Path) -> None:
    """Raises InputError, on all ranks, where one of them cannot write into `folder`, which rank 0 makes: hours later it would be too late.

    All ranks write checkpoints, so a folder that only one machine has is found here too. `folder` is removed again.
    """
    by_first_rank(partial(make, folder))
    rank, found = distributed.get_rank(), [""] * distributed.get_world_size()
    try:
        (folder / str(rank)).touch()
        distributed.all_gather_object(found, "")
    except OSError as error:
        distributed.all_gather_object(found, f"{refused(error)}{of_rank(rank)}")
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
    if said := [text for text in found if text]:
        elsewhere = "" if found[0] else "; rank 0 can: all machines must see the same folder"
        raise InputError(f"output_dir: {said[0]}{and_more(said[1:])}{elsewhere}")


def make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output_dir: {refused(error)}") from error


def refused(error: OSError) -> str:
    return f"{error.filename} cannot be written: {error.strerror} (as user {user()})"


def user() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):  # in a container, a number may be all there is
        return str(os.geteuid())


def of_rank(rank: int) -> str:
    return f", on rank {rank} ({socket.gethostname()})" if distributed.get_world_size() > 1 else ""


def and_more(others: Sequence[str]) -> str:
    return f"; the same or the like on {len(others)} more ranks" if others else ""


def shortage(folder: Path, *, each: int, number: int) -> str | None:
    """What to say where there is less room than `number` checkpoints of about `each` bytes take; nothing where there is enough."""
    free = free_bytes(folder)
    if free >= each * number:
        return None
    takes = f"{number} of about {readable_size(each)}" if number > 1 else f"about {readable_size(each)}"
    return (
        f"warning: {readable_size(free)} free where {folder} lies, and this run's checkpoints take {takes}; "
        "train.keep_checkpoints says how many are kept"
    )


# ---- when it fails


def by_first_rank(work: Callable[[], object]) -> None:
    """Rank 0 does it; all wait until it is done, and where the disk refuses, all raise what it raised."""
    said: list[OSError | LoongForgeError | None] = [None]
    if distributed.get_rank() == 0:
        try:
            work()
        except (OSError, LoongForgeError) as error:
            said = [error]
    distributed.broadcast_object_list(said, src=0)
    if refusal := said[0]:
        raise refusal


@contextlib.contextmanager
def writing(what: Path, *, last: Callable[[], Path | None]) -> Iterator[None]:
    """What the disk refuses within becomes an error that says what, why, and which complete checkpoint is the `last`, to go on from."""
    try:
        yield
    except OSError as error:
        raise could_not_write(what, error.strerror or str(error), last()) from error


def could_not_write(what: Path, why: str, last: Path | None) -> LoongForgeError:
    return LoongForgeError(f"{what} could not be written: {why}{room(what.parent, last)}; {kept(last)}")


def kept(last: Path | None) -> str:
    if last is None:
        return "there is no checkpoint before it"
    return f"the last complete checkpoint is as it was: {last}. The same command goes on from it"


def room(folder: Path, last: Path | None) -> str:
    """How much is free, where it is less than what a checkpoint takes."""
    free, needed = free_bytes(folder), bytes_of(last) if last else 0
    return f" ({readable_size(free)} free there, and a checkpoint takes {readable_size(needed)})" if free < needed else ""


def why_not(folder: Path) -> str:
    """Why this rank cannot write there, found by trying; nothing where it can."""
    path = folder / f".probe_{distributed.get_rank()}"
    try:
        with path.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    return ""


def for_all(found: Mapping[int, str]) -> str:
    """Of the reasons of ranks, one for all where they have the same."""
    if len(set(found.values())) == 1 and len(found) == distributed.get_world_size():
        return next(iter(found.values()))
    shown = [f"rank {rank}: {why}" for rank, why in sorted(found.items())]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more ranks" if len(shown) > SHOWN else "")


# ---- how much


def free_bytes(folder: Path) -> int:
    """For this user, on the disk that `folder` is on, or would be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def readable_size(number: float) -> str:
    """`1.5 GB`, in powers of 1000 as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
