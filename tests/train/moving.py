"""A run is saved in one layout and loaded in others: what each rank holds before and after, put together and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from megatron.core.dist_checkpointing.mapping import is_main_replica
from torch import Tensor

from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry import Registry
from loongforge_core.testing.layouts import Layout, trainer_in
from loongforge_core.train.checkpoint.load import load_checkpoint
from loongforge_core.train.checkpoint.record import Record, model_of, numbers_of
from loongforge_core.train.checkpoint.save import save_checkpoint
from loongforge_core.train.checkpoint.stored import model_state, optimizer_state, steps_of_adam
from loongforge_core.train.result import StepResult
from loongforge_core.train.step import Trainer, build_trainer

SAVED_AT, END = 2, 4


@dataclass(frozen=True)
class Box:
    """Of a whole tensor, as one rank holds it."""

    offset: tuple[int, ...]
    value: Tensor
    shape: tuple[int, ...]
    is_owned: bool
    """This rank stores it."""


Boxes = Mapping[str, Sequence[Box]]


@dataclass(frozen=True)
class Measured:
    """One rank's, at the checkpoint and after it."""

    held: Boxes
    steps_of_adam: int
    results: Sequence[StepResult]


def held(trainer: Trainer) -> Boxes:
    """Copies of weights, moments and main weights; of whatever this rank has, the copies of others' included."""
    trainer.gather_weights()
    found: dict[str, list[Box]] = {}
    for part in (*model_state(trainer.models)["tensors"].values(), *optimizer_state(trainer.optimizer, trainer.models).values()):
        found.setdefault(part.key, []).append(
            Box(part.global_offset, part.data.clone(), part.global_shape, is_main_replica(part.replica_id))
        )
    return found


def together(ranks: Sequence[Measured]) -> dict[str, Tensor]:
    """The whole tensors. Where ranks hold copies of the same values, these are equal; every value is stored by one rank."""
    whole: dict[str, Tensor] = {}
    owners: dict[str, Tensor] = {}
    for key, boxes in ((key, boxes) for rank in ranks for key, boxes in rank.held.items()):
        for box in boxes:
            tensor = whole.setdefault(key, torch.full(box.shape, torch.nan, dtype=box.value.dtype))
            place = tuple(slice(start, start + size) for start, size in zip(box.offset, box.value.shape, strict=True))
            assert torch.equal(torch.where(tensor[place].isnan(), box.value, tensor[place]), box.value), f"copies of {key} differ"
            tensor[place] = box.value
            owners.setdefault(key, torch.zeros(box.shape, dtype=torch.int))[place] += box.is_owned
    wrong = [key for key, count in owners.items() if not (count == 1).all()]
    assert not wrong, f"stored by no rank or by several: values of {wrong}"
    return whole


# ---- on a rank


def start_and_save(composition: Composition, layout: Layout) -> tuple[Measured, Measured]:
    """Saves on the way; then what an uninterrupted run gives, and a second one that begins at the checkpoint."""
    data = TrainingData(composition, Registry.discover())
    trainer = trainer_in(composition, layout)
    train(trainer, data, 0, SAVED_AT)
    record = Record(step=SAVED_AT, model=model_of(composition), numbers=numbers_of(composition, data), plugins=())
    folder = save_checkpoint(Path(composition.run.output_dir), trainer, record)
    uninterrupted = Measured(held(trainer), steps_of_adam(trainer.optimizer), train(trainer, data, SAVED_AT, END))
    model = OmniModelProvider(composition=trainer.composition, registry=Registry.discover())()
    return uninterrupted, go_on(build_trainer(trainer.composition, [model]), data, folder)


def load_and_go_on(composition: Composition, layout: Layout, folder: Path) -> Measured:
    return go_on(trainer_in(composition, layout), TrainingData(composition, Registry.discover()), folder)


def go_on(trainer: Trainer, data: TrainingData, folder: Path) -> Measured:
    load_checkpoint(folder, trainer)
    steps = [state["step"] for each in trainer.optimizer.chained_optimizers for state in each.optimizer.state.values()]
    assert len({id(step) for step in steps}) == len(steps), "parameters share a count of steps, which each then increments"
    return Measured(held(trainer), steps_of_adam(trainer.optimizer), train(trainer, data, trainer.scheduler.num_steps, END))


def train(trainer: Trainer, data: TrainingData, first: int, end: int) -> list[StepResult]:
    group = trainer.groups.dp
    return [trainer.step(data.batches(step, rank=group.rank(), size=group.size())) for step in range(first, end)]


# ---- compared


def check(composition: Composition, source: Layout, *targets: Layout, expected: Sequence[StepResult] | None) -> None:
    """`expected`: steps of an uninterrupted run in one process; None where rounding differs too much to compare with it."""
    ranks = run_ranks(start_and_save, source.world_size, composition, source)
    saved = together([uninterrupted for uninterrupted, _ in ranks])
    folder = Path(composition.run.output_dir) / "checkpoints" / f"step_{SAVED_AT:08d}"
    for uninterrupted, resumed in ranks:
        assert resumed.results == uninterrupted.results, f"{source}: resumed in the same layout"
        require_same(resumed.held, uninterrupted.held)
    for target in targets:
        loaded = run_ranks(load_and_go_on, target.world_size, composition, target, folder)
        arrived = together(loaded)
        assert arrived.keys() == saved.keys()
        different = [key for key in saved if not torch.equal(arrived[key], saved[key])]
        assert not different, f"{source} -> {target}: {different}"
        assert {rank.steps_of_adam for rank in loaded} == {SAVED_AT}
        for rank in loaded if expected else ():
            require_near(rank.results, expected or (), f"{source} -> {target}")


def require_same(theirs: Boxes, ours: Boxes) -> None:
    assert theirs.keys() == ours.keys()
    for key in ours:
        for one, two in zip(theirs[key], ours[key], strict=True):
            assert one.offset == two.offset and torch.equal(one.value, two.value), key


def require_near(given: Sequence[StepResult], expected: Sequence[StepResult], where: str) -> None:
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5), where  # I1
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4), where
        assert ours.loss_by_content == pytest.approx(theirs.loss_by_content, rel=1e-5), where
        assert (ours.router_loss is None) == (theirs.router_loss is None), where
        assert ours.router_loss is None or ours.router_loss == pytest.approx(theirs.router_loss, rel=1e-5), where
        assert ours.grad_norm_by_slot == pytest.approx(theirs.grad_norm_by_slot, rel=1e-4), where
        assert (ours.learning_rate, ours.tokens, ours.samples) == (theirs.learning_rate, theirs.tokens, theirs.samples), where


def uninterrupted(composition: Composition) -> list[StepResult]:
    """Steps of one process that was never stopped."""
    data, trainer = TrainingData(composition, Registry.discover()), trainer_in(composition, Layout())
    return train(trainer, data, 0, END)[SAVED_AT:]
