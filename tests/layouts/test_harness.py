"""The harness catches what goes wrong in layouts, and names parameter and layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import TOKENS_OF_A_PICTURE, batches, language_model, llava
from torch import distributed

from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import Features
from loongforge_core.model.batch import Batch
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.testing.layouts import Layout, Measured, compare, measure, measure_steps, share, trainer_in

Steps = Sequence[Sequence[Batch]]

TENSOR = Layout(tensor=2, sequence_parallel=True)
DATA = Layout(data=2)
TABLE = "embedding.word_embeddings.weight"
FC2, NORM = "decoder.layers.0.mlp.linear_fc2.weight", "decoder.layers.1.input_layernorm.weight"

# ---- faults, as a rank commits them


def wrong_slice(composition: Composition, layout: Layout, batches: Steps) -> Measured:
    trainer = trainer_in(composition, layout)
    weight = trainer.models[0].foundation.get_parameter(FC2)
    if distributed.get_rank() == 1:
        with torch.no_grad():
            weight.copy_(weight.roll(1, 1))
    return measure_steps(trainer, batches)


def doubled_gradient(composition: Composition, layout: Layout, batches: Steps) -> Measured:
    trainer = trainer_in(composition, layout)
    trainer.models[0].foundation.get_parameter(FC2).register_hook(lambda gradient: 2 * gradient)
    return measure_steps(trainer, batches)


def forgotten_all_reduce(composition: Composition, layout: Layout, batches: Steps) -> Measured:
    trainer = trainer_in(composition, layout)
    trainer.models[0].foundation.get_parameter(NORM).sequence_parallel = False
    return measure_steps(trainer, batches)


def counted_twice(composition: Composition, layout: Layout, batches: Steps) -> Measured:
    trainer = trainer_in(composition, layout)
    trainer.models[0].foundation.get_parameter(NORM).shared = False
    return measure_steps(trainer, batches)


def stored_twice(composition: Composition, layout: Layout, batches: Steps) -> Measured:
    trainer = trainer_in(composition, layout)
    foundation = trainer.models[0].foundation
    describe = foundation.sharded_state_dict

    def with_one_copy_too_many(*args: Any) -> dict[str, Any]:
        described: dict[str, Any] = describe(*args)
        described[next(name for name in described if name.endswith(NORM))].replica_id = (0, 0, 0)
        return described

    foundation.sharded_state_dict = with_one_copy_too_many
    return measure_steps(trainer, batches)


def owned_in_halves(composition: Composition, layout: Layout, batches: Steps) -> Measured:
    """Both ranks own the first half of a tensor, and nobody the second: as many values as there are."""
    trainer = trainer_in(composition, layout)
    foundation = trainer.models[0].foundation
    measured = measure_steps(trainer, batches)
    whole = foundation.get_parameter(FC2).shape
    first_half = (slice(0, whole[0]), slice(0, whole[1]))
    owned = [replace(part, where=first_half, counted=True) if part.name.endswith(FC2) else part for part in measured.owned]
    return replace(measured, owned=tuple(owned))


def padding_not_a_number(composition: Composition, layout: Layout, batches: Steps) -> Measured:
    trainer = trainer_in(composition, layout)
    if distributed.get_rank() == 1:
        with torch.no_grad():
            trainer.models[0].foundation.get_parameter(TABLE)[-1] = torch.nan
    return measure_steps(trainer, batches)


def same_share_on_every_rank(composition: Composition, layout: Layout, batches: Steps) -> Measured:
    return measure_steps(trainer_in(composition, layout), [share(step, 0, layout.data) for step in batches])


def last_micro_batch_missing(composition: Composition, layout: Layout, batches: Steps) -> Measured:
    shares = [share(step, distributed.get_rank(), layout.data) for step in batches]
    return measure_steps(trainer_in(composition, layout), [each[:-1] for each in shares])


def last_item_missing(composition: Composition, layout: Layout, batches: Steps) -> Measured:
    """Its encoder sees zeros in place of the last image of each micro-batch."""
    trainer = trainer_in(composition, layout)
    trainer.models[0].encoder.slots["image_encoder"].register_forward_hook(without_last_item)
    return measure_steps(trainer, [share(step, trainer.groups.dp.rank(), layout.data) for step in batches])


def without_last_item(_: Any, __: Any, features: Features) -> Features:
    kept = torch.ones(len(features.hidden_NW), 1)
    kept[-TOKENS_OF_A_PICTURE:] = 0
    return Features(features.hidden_NW * kept, features.grids)


# ---- what is said of them


@pytest.fixture(scope="module")
def composition() -> Composition:
    return language_model(tied=False)


@pytest.fixture(scope="module")
def one(composition: Composition) -> Measured:
    (measured,) = run_ranks(measure, 1, composition, Layout(), batches())
    return measured


@pytest.mark.parametrize(
    ("fault", "layout", "said"),
    [
        (wrong_slice, TENSOR, f"initial weights of foundation.{FC2}"),
        (doubled_gradient, TENSOR, f"gradients of foundation.{FC2}"),
        (forgotten_all_reduce, TENSOR, f"gradients of foundation.{NORM}"),
        (padding_not_a_number, TENSOR, f"initial weights of foundation.{TABLE}"),
        (same_share_on_every_rank, DATA, "loss of step 1"),
        (last_micro_batch_missing, DATA, "loss of step 1"),
    ],
)
def test_a_planted_fault_is_named(
    composition: Composition, one: Measured, fault: Callable[..., Measured], layout: Layout, said: str
) -> None:
    ranks = run_ranks(fault, layout.world_size, composition, layout, batches())
    with pytest.raises(AssertionError) as raised:
        compare(one, ranks, layout)
    lines = str(raised.value).splitlines()
    assert all(line.startswith(f"{layout}: ") for line in lines)
    assert f"{layout}: {said} differ from one process's by " in str(raised.value)
    if fault in (doubled_gradient, forgotten_all_reduce):  # and no other parameter is blamed
        assert [line for line in lines if ": gradients of " in line] == [line for line in lines if f"{said} " in line]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (counted_twice, [f"not once but 2 times, 16 of 16 values of foundation.{NORM} are counted in the gradient norm of data rank 0"]),
        (stored_twice, [f"not once but 2 times, 16 of 16 values of foundation.{NORM} are stored in a checkpoint"]),
        (
            owned_in_halves,
            [
                f"not once but 0 times or 2 times, 512 of 512 values of foundation.{FC2} are counted in the gradient norm of data rank 0",
                f"not once but 0 times or 2 times, 512 of 512 values of foundation.{FC2} are stored in a checkpoint",
            ],
        ),
    ],
)
def test_a_parameter_with_two_owners_is_named(
    composition: Composition, one: Measured, fault: Callable[..., Measured], said: list[str]
) -> None:
    ranks = run_ranks(fault, TENSOR.world_size, composition, TENSOR, batches())
    with pytest.raises(AssertionError) as raised:
        compare(one, ranks, TENSOR)
    follows = (": gradient norm of ", ": weights of ")  # of all parameters together, and what Adam makes of it
    lines = [line for line in str(raised.value).splitlines() if not any(words in line for words in follows)]
    assert lines == [f"{TENSOR}: {line}" for line in said]


def test_values_on_no_rank_are_missed(composition: Composition, one: Measured) -> None:
    layout = Layout(pipeline=2)
    first, _ = run_ranks(measure, 2, composition, layout, batches())
    with pytest.raises(AssertionError, match=r"pipeline 2: on no rank: .*1616 values of foundation.output_layer.weight"):
        compare(one, [first], layout)


def test_a_missing_last_item_is_named() -> None:
    composition, layout, steps = llava(freeze=True), Layout(tensor=2), batches("image")
    (one,) = run_ranks(measure, 1, composition, Layout(), steps)
    ranks = run_ranks(last_item_missing, layout.world_size, composition, layout, steps)
    with pytest.raises(AssertionError, match=r"tensor 2: gradients of image_projector.linear_1.weight differ"):
        compare(one, ranks, layout)
