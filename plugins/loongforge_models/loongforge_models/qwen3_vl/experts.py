"""Qwen3-VL's experts on disk: all of a layer's in one tensor, gate and up side by side in it.

Published folders have their matrices the other way round, `[experts, width, 2 x expert width]`, than version 5 of transformers saves them,
`[experts, 2 x expert width, width]`, under the same name. It reads both, and so does this rule; we write what is published. Nobody can see
that a square matrix is turned: it takes one as it is, so that we write it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from loongforge_core.layers.expert_config import ExpertDecoderConfig
from loongforge_core.weights.rules import TENSOR, OneOfStack, Rule, as_tuple
from loongforge_core.weights.table import Table

__all__ = ["StackedExperts", "with_stacked_experts"]


@dataclass(frozen=True, kw_only=True)
class StackedExperts(OneOfStack):
    """A stack of transposed matrices <-> a matrix for every expert."""

    moves_rows = False

    columns: int
    """Of an expert's matrix here: a stack whose last axis is as long is not transposed."""

    def join(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        (stack,) = theirs
        return super().join([stack if stack.shape[-1] == self.columns else stack.transpose(1, 2)])

    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        (stack,) = super().split(ours)
        rows, columns = stack.shape[1:]
        return [stack if rows == columns else stack.transpose(1, 2).contiguous()]

    def reads(self, given: tuple[int, ...], expected: tuple[int, ...]) -> bool:
        return given in (expected, (expected[0], expected[2], expected[1]))


def with_stacked_experts(foundation: Table, config: ExpertDecoderConfig) -> Table:
    """The table of a language model whose experts are one by one, with those of a layer in a stack."""
    kept = [rule for rule in foundation.rules if not any(".experts." in name for name in as_tuple(rule.theirs))]
    stacks = [rule for layer, has_experts in enumerate(config.expert_layers) if has_experts for rule in stacked(layer, config)]
    return replace(foundation, rules=(*kept, *stacks))


def stacked(layer: int, config: ExpertDecoderConfig) -> tuple[Rule, ...]:
    theirs = f"model.language_model.layers.{layer}.mlp.experts"
    ours = [f"decoder.layers.{layer}.mlp.experts.local_experts.{expert}" for expert in range(config.num_moe_experts)]
    widths = {"gate_up_proj": ("linear_fc1", config.hidden_size), "down_proj": ("linear_fc2", config.moe_ffn_hidden_size)}
    return tuple(
        StackedExperts(f"{theirs}.{name}", tuple(f"{expert}.{part}.weight" for expert in ours), parts=TENSOR, columns=columns)
        for name, (part, columns) in widths.items()
    )
