"""All that a run goes on with."""

from __future__ import annotations

from typing import Any

from loongforge_core.train.checkpoint.stored import load_objects, model_state, optimizer_state, set_steps_of_adam, steps_of_adam
from loongforge_core.train.step import Trainer

__all__ = ["set_state", "state_of"]


def state_of(trainer: Trainer) -> dict[str, Any]:
    """All that a run goes on with; tensors are read into the places from which they are written."""
    return {
        "model": model_state(trainer.models),
        "optimizer": {"tensors": optimizer_state(trainer.optimizer, trainer.models), "steps": steps_of_adam(trainer.optimizer)},
        "scheduler": trainer.scheduler.state_dict(),
    }


def set_state(trainer: Trainer, loaded: dict[str, Any]) -> None:
    """What of a loaded `state_of` is not in place already."""
    load_objects(trainer.models, loaded["model"]["objects"])
    set_steps_of_adam(trainer.optimizer, loaded["optimizer"]["steps"])
    trainer.scheduler.load_state_dict(loaded["scheduler"])
