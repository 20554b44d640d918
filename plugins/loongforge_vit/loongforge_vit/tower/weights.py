"""The layers of a tower on disk."""

from __future__ import annotations

from collections.abc import Iterable

from loongforge_core.weights.rules import WEIGHT_AND_BIAS, Copy, FusedQkv, Rule, per_layer
from loongforge_vit.tower.config import TowerConfig

__all__ = ["all_layers", "clip_layers"]


def all_layers(config: TowerConfig, layer: Iterable[Rule], theirs: str) -> tuple[Rule, ...]:
    """The rules of one layer for each, those behind the feature layer included; `{i}` in `theirs` is the layer's number."""
    run, layer = config.num_layers_run, tuple(layer)
    return (
        *per_layer(layer, theirs, "transformer.layers.{i}.", range(run)),
        *per_layer(layer, theirs, "unused_layers.{i}.", range(run, config.num_layers), first=run),
    )


def clip_layers(config: TowerConfig) -> tuple[Rule, ...]:
    """As `CLIPVisionModel` and, after it, `SiglipVisionModel` name them."""
    layer = (
        Copy("layer_norm1", "input_layernorm", parts=WEIGHT_AND_BIAS),
        FusedQkv(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "self_attention.linear_qkv",
            parts=WEIGHT_AND_BIAS,
            num_heads=config.num_attention_heads,
            num_groups=config.num_attention_heads,
            head_size=config.hidden_size // config.num_attention_heads,
        ),
        Copy("self_attn.out_proj", "self_attention.linear_proj", parts=WEIGHT_AND_BIAS),
        Copy("layer_norm2", "pre_mlp_layernorm", parts=WEIGHT_AND_BIAS),
        Copy("mlp.fc1", "mlp.linear_fc1", parts=WEIGHT_AND_BIAS),
        Copy("mlp.fc2", "mlp.linear_fc2", parts=WEIGHT_AND_BIAS),
    )
    return all_layers(config, layer, "encoder.layers.{i}.")
