"""A third party's encoder reads Megatron's global parallel state and finds its own groups there, whenever it asks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from models import batches, llava, two_encoders
from third_party import SEEN
from torch import Tensor

from loongforge_core.layers.interfaces import Features, Items
from loongforge_core.model import encoder
from loongforge_core.parallel import global_state
from loongforge_core.parallel.global_state import run_in_groups
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.testing.layouts import Layout, check_layouts, measure, trainer_in
from loongforge_core.testing.layouts import compare as compare_measured

STATE = (*global_state.GROUPS.values(), *global_state.RANKS.values(), *global_state.UNSET)


def state() -> dict[str, Any]:
    return {name: getattr(parallel_state, name) for name in STATE}


def asked(layout: Layout) -> tuple[list[tuple[str, int]], bool]:
    trainer = trainer_in(two_encoders(tied=True, freeze=False), layout)
    before = state()
    trainer.step(batches("image", "video")[0])
    return SEEN, state() == before


@pytest.mark.parametrize("size", [1, 2])
def test_it_is_told_its_own_size(size: int) -> None:
    """Building, running, running again in the backward pass, and differentiating; the language model's size is 4."""
    layout = Layout(tensor=4, encoders={"video_encoder": size})
    for seen, is_restored in run_ranks(asked, 4, layout):
        assert {when for when, _ in seen} == {"build", "forward", "run", "backward"}
        runs, forwards = ([when for when, _ in seen].count(name) for name in ("run", "forward"))
        assert runs == 2 * forwards, "recomputed"
        assert {told for _, told in seen} == {size}
        assert is_restored


class FailBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        assert parallel_state.get_tensor_model_parallel_world_size() == 1
        raise RuntimeError("planted")


def fail(tensors: Any) -> Any:
    assert parallel_state.get_tensor_model_parallel_world_size() == 1
    raise RuntimeError("planted")


def failing(when: str) -> bool:
    trainer = trainer_in(two_encoders(tied=True, freeze=False), Layout(tensor=2))
    (model,) = trainer.models
    groups, before = model.encoder.slots["video_encoder"].context.groups, state()
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="planted"):
        if when == "forward":
            run_in_groups(fail, (x,), (), groups)
        else:
            (y,) = run_in_groups(lambda tensors: (FailBackward.apply(tensors[0]),), (x,), (), groups)
            y.sum().backward()
    return state() == before


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_an_exception_leaves_the_state_as_it_was(when: str) -> None:
    assert all(run_ranks(failing, 2, when))


def without_switching(layout: Layout) -> Any:
    """Ours get their groups handed and need no global state."""

    def untouched(component: Any, value: Items | Features) -> Features:
        features: Features = component(value)
        return features

    encoder.in_own_groups = untouched
    return measure(llava(tied=True), layout, batches("image"))


def test_ours_do_not_need_it() -> None:
    layout = Layout(tensor=4, encoders={"image_encoder": 2})
    (one,) = run_ranks(measure, 1, llava(tied=True), Layout(), batches("image"))
    compare_measured(one, run_ranks(without_switching, 4, layout), layout)


def test_a_frozen_one_is_not_differentiated() -> None:
    """Its own checkpointing would run it again in the backward pass, in the language model's state."""
    model = two_encoders(tied=True, freeze=True)
    check_layouts(model, [Layout(tensor=2)], batches("image", "video"))
