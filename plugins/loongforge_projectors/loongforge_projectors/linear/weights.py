"""Qwen2-Audio's projector on disk: a part of `Qwen2AudioForConditionalGeneration`, without a key of its own in that config.json."""

from __future__ import annotations

from loongforge_core.weights.rules import WEIGHT, WEIGHT_AND_BIAS, Copy
from loongforge_core.weights.table import Table
from loongforge_projectors.linear.config import LinearConfig

__all__ = ["table"]


def table(config: LinearConfig) -> Table:
    return Table(rules=(Copy("linear", "linear", parts=WEIGHT_AND_BIAS if config.add_bias_linear else WEIGHT),))
