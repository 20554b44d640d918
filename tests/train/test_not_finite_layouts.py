"""A step whose loss or gradient is not finite changes nothing, in any layout, and all ranks know why; norms of slots add up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import models
import pytest
import torch
from torch import Tensor

from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import Batch
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry import Registry
from loongforge_core.testing.layouts import Layout, share, trainer_in
from loongforge_core.train.checkpoint.stored import model_state, optimizer_state, steps_of_adam
from loongforge_core.train.result import StepResult
from loongforge_core.train.step import Trainer, build_trainer

LAYOUTS = [
    Layout(data=2),
    Layout(tensor=2, sequence_parallel=True, encoders={"image_encoder": 2}),
    Layout(pipeline=2),
    Layout(data=2, optimizer="overlapped"),
]
GUILTY = "micro-batch 4, sample 1"

Steps = Sequence[Sequence[Batch]]


# ---- on a rank


def two_steps_that_are_skipped(composition: Composition, layout: Layout, steps: Steps) -> tuple[list[StepResult], list[str]]:
    """A step, one whose loss is not finite if its items say so, one whose gradient is not, and a step again; and what those that are not
    have changed."""
    trainer = trainer_in(composition, layout)
    shares = [share(step, trainer.groups.dp.rank(), layout.data) for step in steps]
    results = [trainer.step(shares[0])]
    trainer.gather_weights()
    before = everything(trainer)
    results.append(trainer.step(shares[1]))
    if results[1].not_finite is None:
        before = everything(trainer)
    hooks = [first.register_hook(lambda gradient: gradient * math.inf) for first in first_trained(trainer)]
    results.append(trainer.step(shares[2]))
    for hook in hooks:
        hook.remove()
    changed = [key for key, value in everything(trainer).items() if not torch.equal(value, before[key])]
    return [*results, trainer.step(shares[3])], changed


def first_trained(trainer: Trainer) -> list[torch.nn.Parameter]:
    """One parameter of the first data-parallel rank's, on the last stage."""
    if trainer.groups.dp.rank() or trainer.groups.pp.rank() + 1 < trainer.groups.pp.size():
        return []
    return [trainer.models[0].foundation.get_parameter("decoder.final_layernorm.weight")]


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """Copies of weights, routing biases, moments and the number of steps that these were moved by."""
    stored = (*model_state(trainer.models)["tensors"].values(), *optimizer_state(trainer.optimizer, trainer.models).values())
    found = {f"{part.key} at {part.global_offset}": part.data.clone() for part in stored}
    return {**found, "steps of Adam": torch.tensor(steps_of_adam(trainer.optimizer))}


def alone(composition: Composition, steps: Steps) -> tuple[tuple[list[StepResult], list[str]], list[StepResult]]:
    """One process's; and the steps that are taken, as if the others had not been."""
    found = two_steps_that_are_skipped(composition, Layout(), steps)
    trainer = build_trainer(composition, [OmniModelProvider(composition=composition, registry=Registry.discover())()])
    first = trainer.step(steps[0])
    trainer.scheduler.step(2)
    return found, [first, trainer.step(steps[3])]


# ---- compared


def named(steps: Steps) -> Steps:
    return [
        [
            replace(batch, names=tuple(f"micro-batch {number}, sample {place}" for place in range(batch.num_samples)))
            for number, batch in enumerate(step)
        ]
        for step in steps
    ]


def with_an_infinite_item(steps: Steps) -> Steps:
    """In the second step: the only picture of `GUILTY`, which two pictures of another sample precede."""
    second = list(steps[1])
    pixels = second[4].items["image"].inputs["pixel_values"].clone()
    pixels[2] = math.inf
    second[4] = replace(second[4], items={"image": Items({"pixel_values": pixels}, second[4].items["image"].sizes)})
    return [steps[0], second, *steps[2:]]


@pytest.fixture(scope="module")
def llava() -> tuple[Composition, Steps, list[StepResult]]:
    steps = models.batches("image")
    steps = with_an_infinite_item(named([*steps, steps[0]]))
    composition = models.llava(tied=True)
    (((results, changed), without),) = run_ranks(alone, 1, composition, steps)
    assert changed == []
    assert [results[0], results[3]] == without
    return composition, steps, results


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_step_that_is_not_finite_changes_nothing(layout: Layout, llava: tuple[Composition, Steps, list[StepResult]]) -> None:
    composition, steps, one = llava
    ranks = run_ranks(two_steps_that_are_skipped, layout.world_size, composition, layout, steps)
    assert all(results == ranks[0][0] for results, _ in ranks), "ranks differ in what a step was like"
    assert [changed for _, changed in ranks] == [[]] * layout.world_size
    first, loss, gradient, last = ranks[0][0]
    assert loss.not_finite and (loss.not_finite.what, loss.not_finite.samples) == ("the loss is nan", (GUILTY,))
    assert loss.loss is loss.loss_by_content["image"] is None
    assert loss.loss_by_content["text_only"] == pytest.approx(one[1].loss_by_content["text_only"], rel=1e-5)
    assert gradient.not_finite and gradient.not_finite.what.startswith("the gradient norm is") and gradient.not_finite.loss_is_finite
    assert gradient.not_finite.samples == tuple(name for batch in steps[2] for name in batch.names)
    assert gradient.grad_norm is None and gradient.grad_norm_by_slot["foundation"] is None
    assert gradient.loss == pytest.approx(one[2].loss, rel=1e-5)
    for ours, theirs in ((first, one[0]), (last, one[3])):
        assert (ours.loss, ours.grad_norm) == (pytest.approx(theirs.loss, rel=1e-5), pytest.approx(theirs.grad_norm, rel=1e-4))
        assert ours.learning_rate == theirs.learning_rate
        require_sum(ours)


def require_sum(result: StepResult) -> None:
    assert result.grad_norm == pytest.approx(math.hypot(*result.grad_norm_by_slot.values()), rel=1e-6)
    assert all(norm > 0 for norm in result.grad_norm_by_slot.values())


def test_nor_does_it_move_the_biases_of_a_router() -> None:
    """Megatron moves them with the gradients, before it is known whether a step is taken."""
    composition, steps = models.language_model(tied=False, num_layers=2, **models.EXPERTS), models.batches()
    steps = [*steps, steps[0]]
    layout = Layout(data=2, expert=2, optimizer="distributed")
    for results, changed in run_ranks(two_steps_that_are_skipped, layout.world_size, composition, layout, steps):
        assert [result.not_finite is not None for result in results] == [False, False, True, False]
        assert changed == []
        require_sum(results[0])
