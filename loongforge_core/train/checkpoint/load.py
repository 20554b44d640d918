"""A checkpoint is read when its digests are right and nothing in it is code; of another model, or damaged, it is refused."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core import __version__ as megatron_version
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch.distributed.checkpoint.api import CheckpointException

from loongforge_core.config.composition import Composition
from loongforge_core.errors import CheckpointError
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.parallel.repairs import quiet
from loongforge_core.registry.reasons import one_line
from loongforge_core.train.checkpoint.digests import verify
from loongforge_core.train.checkpoint.folders import instead_of
from loongforge_core.train.checkpoint.record import Record, read_record, require_model
from loongforge_core.train.checkpoint.refuse_code import COMMON_FILE, refuse_code
from loongforge_core.train.checkpoint.state import set_state, state_of
from loongforge_core.train.checkpoint.stored import load_objects, model_state
from loongforge_core.train.step import Trainer

__all__ = ["load_checkpoint", "load_model"]

DAMAGED = (
    *(OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError),
    *(AttributeError, ArithmeticError, AssertionError, MemoryError),
)
"""What Megatron and torch raise for damaged files: they look for damage where they expect it only."""


def load_checkpoint(folder: Path, trainer: Trainer) -> Record:
    """Brings the trainer to where it was when `folder` was saved. Raises CheckpointError where it is of another model or damaged."""
    record = read_record(folder)
    require_model(record, trainer.composition, folder)
    state = load(folder, record, state_of(trainer), StrictHandling.RAISE_ALL)
    with readable(folder):
        set_state(trainer, state)
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
