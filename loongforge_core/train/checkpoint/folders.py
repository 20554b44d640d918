"""Where the checkpoints of a run lie, which of them are there, and which are kept."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from functools import partial
from pathlib import Path

from loongforge_core.errors import CheckpointError
from loongforge_core.train.checkpoint.record import RECORD_FILE
from loongforge_core.train.disk import by_first_rank, require_writable

__all__ = [
    "FOLDER",
    "checkpoint_of_step",
    "checkpoints",
    "find_checkpoint",
    "hidden",
    "instead_of",
    "newest_checkpoint",
    "prepare_folder",
    "remove_old",
    "remove_unfinished",
]

FOLDER = "checkpoints"
PREFIX = "step_"
UNFINISHED = ".writing_"


def checkpoint_of_step(output_dir: Path, step: int) -> Path:
    """Where it lies when it is complete."""
    return output_dir / FOLDER / f"{PREFIX}{step:08d}"


def hidden(folder: Path) -> Path:
    """What a checkpoint is called while it is not, or no longer, complete."""
    return folder.with_name(f"{UNFINISHED}{folder.name}")


def checkpoints(output_dir: Path) -> dict[int, Path]:
    """The complete checkpoints of a run by the steps done, oldest first."""
    found = {}
    for folder in (output_dir / FOLDER).glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX)
        if number.isdecimal() and folder.is_dir():
            found[int(number)] = folder
    return dict(sorted(found.items()))


def newest_checkpoint(output_dir: Path) -> Path | None:
    return next(reversed(checkpoints(output_dir).values()), None)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` means: itself, or the newest of a run's folder. Raises CheckpointError where there is none."""
    if (path / RECORD_FILE).is_file():
        return path
    if found := newest_checkpoint(path.parent if path.name == FOLDER else path):
        return found
    raise CheckpointError(
        f"{path} holds no checkpoint: expected a folder {PREFIX}00000100 or the like, or a run's folder with {FOLDER}/ in it"
    )


def remove_unfinished(output_dir: Path) -> None:
    """What a run left that was stopped while it was writing."""
    for folder in (output_dir / FOLDER).glob(f"{UNFINISHED}*"):
        shutil.rmtree(folder, ignore_errors=True)


def remove_old(output_dir: Path, *, keep: int, retain_interval: int = 0, spared: Collection[int] = ()) -> None:
    """All but the newest `keep` checkpoints, those of every `retain_interval` steps and those of the steps `spared`; `keep` 0 keeps all.

    Each becomes invisible at once, as if unfinished, and is then deleted; what cannot be deleted now is tried again at the next save.
    """
    for step, folder in list(checkpoints(output_dir).items())[:-keep] if keep else []:
        if step not in spared and not (retain_interval and step % retain_interval == 0):
            invisible = folder.rename(hidden(folder))
            shutil.rmtree(invisible, ignore_errors=True)


def prepare_folder(output_dir: Path) -> None:
    """Before the first step: the folder of the checkpoints, which all ranks can write into, without what a stopped run left there.

    Raises InputError, on all ranks, where one cannot.
    """
    require_writable(output_dir / FOLDER / f"{UNFINISHED}check")
    by_first_rank(partial(remove_unfinished, output_dir))


def instead_of(folder: Path) -> str:
    """What to do where `folder` is damaged."""
    others = [other for other in checkpoints(folder.parent.parent).values() if other.parent == folder.parent and other != folder]
    if not others:
        return "the run has no other checkpoint, so it must be copied anew, or made anew"
    return f"the newest other checkpoint of the run is {others[-1]}: name that one, or move this one away to go on from it"
