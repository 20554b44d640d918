"""Rules: `split` undoes `join` bit for bit, and `join` puts every row where Megatron expects it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from loongforge_core.weights.rules import (
    TENSOR,
    WEIGHT_AND_BIAS,
    Copy,
    FusedGateUp,
    FusedQkv,
    OneOfStack,
    Rule,
    per_layer,
)

QKV = FusedQkv(("q", "k", "v"), "qkv", num_heads=4, num_groups=2, head_size=3)

CASES = {
    "copy": (Copy("a", "b"), [(5, 2)]),
    "qkv weight": (QKV, [(12, 7), (6, 7), (6, 7)]),
    "qkv bias": (QKV, [(12,), (6,), (6,)]),
    "one key for every query": (FusedQkv(("q", "k", "v"), "qkv", num_heads=4, num_groups=4, head_size=3), [(12, 7)] * 3),
    "one key for all queries": (FusedQkv(("q", "k", "v"), "qkv", num_heads=4, num_groups=1, head_size=3), [(12, 7), (3, 7), (3, 7)]),
    "gate and up": (FusedGateUp(("gate", "up"), "fc1"), [(4, 3), (4, 3)]),
    "stack": (OneOfStack("experts", ("e0", "e1", "e2")), [(3, 4, 2)]),
}


@pytest.mark.parametrize("case", CASES)
def test_split_undoes_join(case: str) -> None:
    rule, shapes = CASES[case]
    theirs = [torch.randn(shape) for shape in shapes]
    back = rule.split(rule.join(theirs))
    assert len(back) == len(theirs)
    assert all(torch.equal(left, right) for left, right in zip(theirs, back, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_join_undoes_split(case: str) -> None:
    rule, shapes = CASES[case]
    ours = [torch.randn_like(tensor) for tensor in rule.join([torch.empty(shape) for shape in shapes])]
    back = rule.join(rule.split(ours))
    assert all(torch.equal(left, right) for left, right in zip(ours, back, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_shapes_are_known_without_values(case: str) -> None:
    rule, shapes = CASES[case]
    joined = rule.join([torch.empty(shape, device="meta") for shape in shapes])
    assert [tuple(tensor.shape) for tensor in rule.split(joined)] == shapes


def test_qkv_is_laid_out_group_by_group() -> None:
    """Two groups of two queries: q0 q1 k0 v0, q2 q3 k1 v1."""
    rule = FusedQkv(("q", "k", "v"), "qkv", num_heads=4, num_groups=2, head_size=1)
    (fused,) = rule.join([torch.tensor([0, 1, 2, 3]), torch.tensor([10, 11]), torch.tensor([20, 21])])
    assert fused.tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_gate_lies_before_up() -> None:
    (fused,) = FusedGateUp(("gate", "up"), "fc1").join([torch.tensor([1, 2]), torch.tensor([3, 4])])
    assert fused.tolist() == [1, 2, 3, 4]


def test_every_expert_is_its_slice_of_the_stack() -> None:
    stack = torch.arange(12).reshape(3, 2, 2)
    assert [expert.tolist() for expert in OneOfStack("experts", ("e0", "e1", "e2")).join([stack])] == stack.tolist()


def test_names_follow_the_parts() -> None:
    rule = Copy("norm", "layernorm", parts=WEIGHT_AND_BIAS)
    assert list(rule.tensors()) == [(("norm.weight",), ("layernorm.weight",)), (("norm.bias",), ("layernorm.bias",))]
    assert list(Copy("probe", "head.probe", parts=TENSOR).tensors()) == [(("probe",), ("head.probe",))]


def test_layers_may_be_counted_from_another_number_on_our_side() -> None:
    rules = per_layer([Copy("norm", "layernorm")], "encoder.layers.{i}.", "unused_layers.{i}.", range(4, 6), first=4)
    assert [(rule.theirs, rule.ours) for rule in rules] == [
        (("encoder.layers.4.norm",), ("unused_layers.0.layernorm",)),
        (("encoder.layers.5.norm",), ("unused_layers.1.layernorm",)),
    ]


@dataclass(frozen=True)
class Transposed(Rule):
    """What a plugin might bring itself."""

    def join(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        return [theirs[0].T]

    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return [ours[0].T]


def test_a_plugin_may_bring_its_own_rule() -> None:
    rule = Transposed("conv", "linear").under("model.", "decoder.")
    assert (rule.theirs, rule.ours) == (("model.conv",), ("decoder.linear",))
    assert rule.join([torch.empty(2, 3)])[0].shape == (3, 2)
