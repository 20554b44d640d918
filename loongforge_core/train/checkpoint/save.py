"""A checkpoint is written into a hidden folder, brought to disk, and renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException

from loongforge_core.config.composition import Composition
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.parallel.repairs import quiet, writing_in_this_process
from loongforge_core.train.checkpoint.digests import digests_of
from loongforge_core.train.checkpoint.folders import checkpoint_of_step, hidden, newest_checkpoint, remove_unfinished
from loongforge_core.train.checkpoint.record import RECORD_FILE, Record, model_of
from loongforge_core.train.checkpoint.state import state_of
from loongforge_core.train.checkpoint.stored import model_state
from loongforge_core.train.disk import by_first_rank, for_all, why_not, writing
from loongforge_core.train.step import Trainer
from loongforge_core.train.summary import parameter_counts

__all__ = ["expected_bytes", "save_checkpoint", "save_start"]


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
    folder = checkpoint_of_step(output_dir, record.step)
    unfinished = hidden(folder)
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


def write_through(path: Path) -> None:
    """Returns when the file, or the folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
