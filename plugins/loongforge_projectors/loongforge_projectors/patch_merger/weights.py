"""Qwen's patch merger on disk: a part of published vision towers, with its keys in their section of config.json.

It is read out of a tower's folder, or a whole model's; alone, it is written by its names in the tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from loongforge_core.weights.config_keys import Given, Ignored, Key
from loongforge_core.weights.rules import WEIGHT, WEIGHT_AND_BIAS, Copy, Rule
from loongforge_core.weights.table import Table
from loongforge_projectors.patch_merger.config import PatchMergerConfig

__all__ = ["QWEN2_VL_NAMES", "QWEN3_VL_NAMES", "merger_table", "table"]

QWEN2_VL_NAMES = {"ln_q": "norm", "mlp.0": "linear_fc1", "mlp.2": "linear_fc2"}
"""Qwen2-VL's, Qwen2.5-VL's and LLaVA-OneVision 1.5's."""
QWEN3_VL_NAMES = {"norm": "norm", "linear_fc1": "linear_fc1", "linear_fc2": "linear_fc2"}

TOWERS = {
    "LayerNorm": ("qwen3_vl_vision", {"qwen3_vl_moe_vision": "", "qwen3_vl": "vision_config", "qwen3_vl_moe": "vision_config"}),
    "RMSNorm": ("qwen2_5_vl_vision", {"qwen2_5_vl": "vision_config"}),
}
"""`model_type` of the folders that have such mergers, the tower's alone, and of others the section of config.json that describes it."""

ELSEWHERE = {
    **dict.fromkeys(("*patch_embed.*", "*pos_embed.*", "*blocks.*"), "the tower's"),
    **dict.fromkeys(("*language_model.*", "model.layers.*", "model.embed_tokens.*", "model.norm.*", "lm_head.*"), "the language model's"),
}
"""What lies beside them."""


def table(config: PatchMergerConfig) -> Table:
    """Qwen3-VL's names for layer norms, Qwen2.5-VL's for RMS norms."""
    own = merger_table(config, QWEN3_VL_NAMES if config.normalization == "LayerNorm" else QWEN2_VL_NAMES)
    as_published = (config.activation, config.layernorm_epsilon) == ("gelu", 1e-6)
    return replace(own, alternatives={"Qwen's towers": in_tower(own, *TOWERS[config.normalization])} if as_published else {})


def in_tower(own: Table, alone: str, others: Mapping[str, str]) -> Table:
    return replace(
        own,
        keys=(*own.keys, Ignored(("*",), "the tower's")),
        model_type=alone,
        config_at=others,
        aliases={"model.visual.": "", "visual.": ""},
        ignored=ELSEWHERE,
    )


def merger_table(config: PatchMergerConfig, names: Mapping[str, str], *, width_key: str = "out_hidden_size") -> Table:
    """`names`: theirs -> ours, of a merger's modules; `width_key`: what they call the width of the embeddings."""
    mergers = {"merger.": "merger."}
    mergers |= {f"deepstack_merger_list.{level}.": f"level_mergers.{level}." for level in range(config.num_levels)}
    return Table(
        rules=tuple(rule.under(theirs, ours) for theirs, ours in mergers.items() for rule in rules(config, names)),
        keys=(
            Key("hidden_size", "input_size"),
            Key(width_key, "hidden_size"),
            Key("spatial_merge_size", "spatial_merge_size", 2),
            *((NumberOf("deepstack_visual_indexes", "num_levels"),) if config.num_levels else ()),
        ),
    )


def rules(config: PatchMergerConfig, names: Mapping[str, str]) -> tuple[Rule, ...]:
    norm_parts = WEIGHT_AND_BIAS if config.normalization == "LayerNorm" else WEIGHT
    return tuple(Copy(theirs, ours, parts=norm_parts if ours == "norm" else WEIGHT_AND_BIAS) for theirs, ours in names.items())


@dataclass(frozen=True)
class NumberOf(Key):
    """Ours is how many entries their list has; the encoder says which."""

    def spelled(self, given: Given) -> Mapping[str, Any]:
        return {name: len(value) for name, value in super().spelled(given).items()}

    def write(self, config: Any) -> Mapping[str, Any]:
        return {}
