"""Checkpoints: model, optimizer and scheduler by Megatron's dist_checkpointing, complete or invisible (I4).

    <output_dir>/checkpoints/step_00000800/    loongforge.json      what it is of: see record.py
                                               everything else      Megatron's and torch's

A checkpoint is written into a hidden folder, brought to disk, and renamed. Its tensors are stored by their global names, whatever the
layout: see stored.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core import __version__ as megatron_version
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException

from loongforge_core.config.composition import Composition
from loongforge_core.errors import CheckpointError
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.parallel.repairs import writing_in_this_process
from loongforge_core.registry.reasons import one_line
from loongforge_core.train.digests import digests_of, verify
from loongforge_core.train.disk import by_first_rank, for_all, require_writable, why_not, writing
from loongforge_core.train.record import RECORD_FILE, Record, model_of, read_record, require_model
from loongforge_core.train.refuse_code import COMMON_FILE, refuse_code
from loongforge_core.train.step import Trainer
from loongforge_core.train.stored import load_objects, model_state, optimizer_state, set_steps_of_adam, steps_of_adam
from loongforge_core.train.summary import parameter_counts

__all__ = [
    "checkpoints",
    "expected_bytes",
    "find_checkpoint",
    "load_checkpoint",
    "load_model",
    "newest_checkpoint",
    "prepare_folder",
    "remove_old",
    "remove_unfinished",
    "save_checkpoint",
    "save_start",
]

FOLDER = "checkpoints"
PREFIX = "step_"
UNFINISHED = ".writing_"

DAMAGED = (
    *(OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError),
    *(AttributeError, ArithmeticError, AssertionError, MemoryError),
)
"""What Megatron and torch raise for damaged files: they look for damage where they expect it only."""


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
            invisible = folder.rename(folder.with_name(f"{UNFINISHED}{folder.name}"))
            shutil.rmtree(invisible, ignore_errors=True)


def prepare_folder(output_dir: Path) -> None:
    """Before the first step: the folder of the checkpoints, which all ranks can write into, without what a stopped run left there.

    Raises InputError, on all ranks, where one cannot.
    """
    require_writable(output_dir / FOLDER / f"{UNFINISHED}check")
    by_first_rank(partial(remove_unfinished, output_dir))


# ---- saving


def expected_bytes(composition: Composition, models: Sequence[OmniCombinationModel]) -> int:
    """About what a checkpoint will take; all ranks call it."""
    counts = parameter_counts(composition, models).values()
    weight, trained = (2, 4 + 4 + 4) if composition.run.train.precision == "bf16" else (4, 4 + 4)
    return sum(total * weight + trainable * trained for total, trainable in counts)


def save_checkpoint(output_dir: Path, trainer: Trainer, record: Record) -> Path:
    """The checkpoint's folder. All ranks call it, and none returns before it is complete."""
    trainer.gather_weights()
    return save(output_dir, state_of(trainer), record)


def save_start(output_dir: Path, models: Sequence[OmniCombinationModel], composition: Composition, plugins: Sequence[str]) -> Path:
    """A checkpoint of step 0: weights alone, to begin a run with, whatever its settings."""
    record = Record(step=0, model=model_of(composition), numbers={}, plugins=tuple(plugins))
    return save(output_dir, {"model": model_state(models)}, record)


def save(output_dir: Path, state: dict[str, Any], record: Record) -> Path:
    """Raises LoongForgeError, and removes what there is of it, where it cannot be written; earlier checkpoints are as they were."""
    folder = output_dir / FOLDER / f"{PREFIX}{record.step:08d}"
    unfinished = folder.with_name(f"{UNFINISHED}{folder.name}")
    with writing(folder, last=partial(newest_checkpoint, output_dir)):
        try:
            by_first_rank(partial(begin, output_dir, unfinished))
            with quiet(), writing_in_this_process(), refusals(unfinished):
                dist_checkpointing.save(state, str(unfinished))
            record = replace(record, files=digests_of(unfinished))
            by_first_rank(partial(complete, unfinished, folder, record))
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)  # on all ranks: each says how much is free then
            raise
    return folder


def begin(output_dir: Path, unfinished: Path) -> None:
    remove_unfinished(output_dir)
    unfinished.mkdir(parents=True)


def complete(unfinished: Path, folder: Path, record: Record) -> None:
    """Brings to disk what all ranks have written, and makes it visible."""
    (unfinished / RECORD_FILE).write_text(record.to_json())
    for path in unfinished.rglob("*"):
        write_through(path)
    write_through(unfinished)
    unfinished.rename(folder)
    write_through(folder.parent)


@contextlib.contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """Where ranks cannot write, an OSError with the reasons of all.

    When all have tried, Megatron has all raise, and only rank 0 knows who failed; of 0.16, rank 0 writes a file by itself before, and torch
    has an error of its own for that. Neither says why.
    """
    try:
        yield
    except CheckpointException as error:
        found: list[str] = [""] * distributed.get_world_size()
        distributed.all_gather_object(found, why_not(folder))
        said = [{rank: f"{type(reason).__name__}: {reason}" for rank, (reason, _) in error.failures.items()}]
        distributed.broadcast_object_list(said, src=0)
        raise OSError(for_all({rank: why for rank, why in enumerate(found) if why} or said[0])) from error
    except RuntimeError as error:
        if why := why_not(folder):
            raise OSError(why) from error
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what Megatron and torch say of their own calls to each other (deprecations), about which nobody here can do anything."""
    logger = logging.getLogger("megatron.core.dist_checkpointing")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_through(path: Path) -> None:
    """Returns when the file, or the folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def state_of(trainer: Trainer) -> dict[str, Any]:
    """All that a run goes on with; tensors are read into the places from which they are written."""
    return {
        "model": model_state(trainer.models),
        "optimizer": {"tensors": optimizer_state(trainer.optimizer, trainer.models), "steps": steps_of_adam(trainer.optimizer)},
        "scheduler": trainer.scheduler.state_dict(),
    }


# ---- loading


def load_checkpoint(folder: Path, trainer: Trainer) -> Record:
    """Brings the trainer to where it was when `folder` was saved. Raises CheckpointError where it is of another model or damaged."""
    record = read_record(folder)
    require_model(record, trainer.composition, folder)
    state = load(folder, record, state_of(trainer), StrictHandling.RAISE_ALL)
    with readable(folder):
        load_objects(trainer.models, state["model"]["objects"])
        set_steps_of_adam(trainer.optimizer, state["optimizer"]["steps"])
        trainer.scheduler.load_state_dict(state["scheduler"])
    return record


def load_model(folder: Path, models: Sequence[OmniCombinationModel], composition: Composition) -> Record:
    """Fills models with a checkpoint's weights, and leaves the rest of it alone. Raises CheckpointError as `load_checkpoint` does."""
    record = read_record(folder)
    require_model(record, composition, folder)
    state = load(folder, record, {"model": model_state(models)}, StrictHandling.RAISE_UNEXPECTED)
    load_objects(models, state["model"]["objects"])
    return record


def load(folder: Path, record: Record, state: dict[str, Any], strict: StrictHandling) -> dict[str, Any]:
    verify(folder, record.files, instead=partial(instead_of, folder))
    if not (folder / COMMON_FILE).exists() and not reads_common_state_of_0_19():
        raise CheckpointError(
            f"{folder} was written by Megatron-Core {record.megatron_core}; the installed {megatron_version} cannot read "
            "what is no tensor in it: install megatron-core>=0.19 (Python 3.12 or later)"
        )
    refuse_code(folder)
    with quiet(), readable(folder):
        loaded: dict[str, Any] = dist_checkpointing.load(state, str(folder), strict=strict)
    return loaded


def instead_of(folder: Path) -> str:
    """What to do where `folder` is damaged."""
    others = [other for other in checkpoints(folder.parent.parent).values() if other.parent == folder.parent and other != folder]
    if not others:
        return "the run has no other checkpoint, so it must be copied anew, or made anew"
    return f"the newest other checkpoint of the run is {others[-1]}: name that one, or move this one away to go on from it"


def reads_common_state_of_0_19() -> bool:
    """0.19 did away with separate strategies for common state, and keeps it among the tensors."""
    return importlib.util.find_spec("megatron.core.dist_checkpointing.strategies.base") is None


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointException as error:  # whose words are the tracebacks of all ranks that failed
        reasons = (f"rank {rank}: {type(reason).__name__}: {one_line(reason)}" for rank, (reason, _) in error.failures.items())
        raise CheckpointError(f"{folder} cannot be loaded: {', '.join(reasons)}") from error
    except (CheckpointingException, *DAMAGED) as error:
        raise CheckpointError(f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error
