"""What the tables of towers for items of any size have in common."""

from __future__ import annotations

from collections.abc import Iterable

from loongforge_core.weights.config_keys import GENERIC_KEYS, ConfigKey, Ignored, Key
from loongforge_core.weights.rules import WEIGHT_AND_BIAS, Copy, Rule, StackedQkv, per_layer
from loongforge_vit.native_resolution.config import NativeResolutionConfig

__all__ = ["ELSEWHERE", "block_rules", "size_keys"]

ELSEWHERE = {
    "*merger*": "the projector's, patch_merger",
    "model.language_model.*": "the language model's",
    "language_model.*": "the language model's",
    "model.layers.*": "the language model's",
    "model.embed_tokens.*": "the language model's",
    "model.norm.*": "the language model's",
    "lm_head.*": "the language model's",
}
"""What is in a whole model's folder beside its vision tower."""


def block_rules(config: NativeResolutionConfig, *, norm_parts: tuple[str, ...], mlp: Iterable[Rule]) -> tuple[Rule, ...]:
    """All layers; `mlp` are the rules of one layer's MLP."""
    layer = (
        Copy("norm1", "input_layernorm", parts=norm_parts),
        StackedQkv(
            "attn.qkv",
            "self_attention.linear_qkv",
            parts=WEIGHT_AND_BIAS,
            num_heads=config.num_attention_heads,
            num_groups=config.num_attention_heads,
            head_size=config.head_size,
        ),
        Copy("attn.proj", "self_attention.linear_proj", parts=WEIGHT_AND_BIAS),
        Copy("norm2", "pre_mlp_layernorm", parts=norm_parts),
        *mlp,
    )
    return per_layer(layer, "blocks.{i}.", "transformer.layers.{i}.", range(config.num_layers))


def size_keys(config_class: type[NativeResolutionConfig]) -> tuple[ConfigKey, ...]:
    """Of a vision section of config.json, with the config's defaults as those of transformers."""
    default = {name: field.default for name, field in config_class.model_fields.items()}
    return (
        Key("depth", "num_layers", default["num_layers"]),
        Key("hidden_size", "hidden_size", default["hidden_size"]),
        Key("intermediate_size", "ffn_hidden_size", default["ffn_hidden_size"]),
        Key("num_heads", "num_attention_heads", default["num_attention_heads"]),
        Key("patch_size", "patch_size", default["patch_size"]),
        Key("temporal_patch_size", "temporal_patch_size", default["temporal_patch_size"]),
        Key("spatial_merge_size", "spatial_merge_size", default["spatial_merge_size"]),
        Key("in_channels", "num_channels", default["num_channels"], also=("in_chans",)),
        Ignored(("out_hidden_size",), "the projector's"),
        GENERIC_KEYS,
    )
