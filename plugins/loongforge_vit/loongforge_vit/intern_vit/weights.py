"""InternViT on disk, in two formats: transformers' `InternVLVisionModel` and OpenGVLab's `InternVisionModel`.

The first is what we write; of the second one reads what its authors published, and `table(config).alternatives["OpenGVLab"]` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loongforge_core.weights.config_keys import GENERIC_KEYS, ConfigKey, Constant, Given, Ignored, Key, Unwritten, Written
from loongforge_core.weights.rules import TENSOR, WEIGHT, WEIGHT_AND_BIAS, Copy, FusedQkv, Rule, StackedQkv
from loongforge_core.weights.table import Table
from loongforge_vit.intern_vit.config import InternVitConfig
from loongforge_vit.tower.weights import all_layers

__all__ = ["table"]

NORMS = {"layer_norm": "LayerNorm", "rms_norm": "RMSNorm"}
CARRIED = {"unused_layers.*": "behind the feature layer"}
EXPERTS = """
    capacity_factor eval_capacity_factor laux_allreduce moe_coeff_ratio moe_intermediate_size moe_output_scale noisy_gate_policy
    num_experts num_routed_experts num_shared_experts shared_expert_intermediate_size use_residual use_rts use_weighted_residual
""".split()  # noqa: SIM905
"""Keys of OpenGVLab's format since InternVL3, of an InternViT that was never published."""


@dataclass(frozen=True)
class SquareKey(Key):
    """The side of a square, which they write as `[side, side]`; a single number is read too."""

    def spelled(self, given: Given) -> Mapping[str, Any]:
        return {name: side(value) for name, value in super().spelled(given).items()}

    def write(self, config: Any) -> Mapping[str, Any]:
        return {self.theirs: [self.expected(config)] * 2}


def side(value: Any) -> Any:
    """Of what is no square, the value as it is, which agrees with no side of ours."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1] else value


def table(config: InternVitConfig) -> Table:
    return Table(
        rules=transformers_rules(config),
        keys=(
            *shared_keys(num_layers=24, hidden_size=1024, num_attention_heads=16, ffn_hidden_size=4096),
            SquareKey("image_size", "image_size", 448),
            SquareKey("patch_size", "patch_size", 14),
            Key("norm_type", "normalization", "layer_norm", values=NORMS),
            Key("attention_bias", "add_qkv_bias", False),
            Key("use_qk_norm", "qk_layernorm", False),
            Key("layer_scale_init_value", "layer_scale_init", 0.1),
            Constant("use_mask_token", False, False),
            Constant("use_absolute_position_embeddings", True, True),
            Constant("use_mean_pooling", True, True),
            # The last is of the other format, and in the folders that OpenGVLab has turned into this one.
            Ignored(("hidden_dropout_prob", "projection_dropout", "dropout"), "nothing is dropped here"),
        ),
        model_type="internvl_vision",
        architectures=("InternVLVisionModel",),
        carried=CARRIED,
        alternatives={"OpenGVLab": opengvlab_table(config)},
    )


def opengvlab_table(config: InternVitConfig) -> Table:
    return Table(
        rules=opengvlab_rules(config),
        keys=(
            *shared_keys(num_layers=48, hidden_size=3200, num_attention_heads=25, ffn_hidden_size=12800),
            Key("image_size", "image_size", 224),
            Key("patch_size", "patch_size", 14),
            Key("norm_type", "normalization", "rms_norm", values=NORMS),
            Key("qkv_bias", "add_qkv_bias", False),
            Key("qk_normalization", "qk_layernorm", True),
            # How fresh weights are drawn; 1 in InternVL2.5's folders.
            Written("initializer_factor", lambda config: config.layer_scale_init),
            Ignored(("dropout", "drop_path_rate"), "nothing is dropped here"),
            Ignored(("use_flash_attn", "auto_map.*"), "how their own code runs"),
            Unwritten("use_moe", False, False),
            Ignored(tuple(EXPERTS), "no effect without use_moe"),
        ),
        model_type="intern_vit_6b",
        architectures=("InternVisionModel",),
        carried=CARRIED,
    )


def shared_keys(**defaults: int) -> tuple[ConfigKey, ...]:
    """Keys of both formats; `defaults` is what their class assumes where one is absent."""
    return (
        Key("num_hidden_layers", "num_layers", defaults["num_layers"]),
        Key("hidden_size", "hidden_size", defaults["hidden_size"]),
        Key("num_attention_heads", "num_attention_heads", defaults["num_attention_heads"]),
        Key("intermediate_size", "ffn_hidden_size", defaults["ffn_hidden_size"]),
        Key("layer_norm_eps", "layernorm_epsilon", 1e-6),
        Key("num_channels", "num_channels", 3),
        Constant("hidden_act", "gelu", "gelu"),
        Constant("attention_dropout", 0.0, 0.0),
        GENERIC_KEYS,
    )


def transformers_rules(config: InternVitConfig) -> tuple[Rule, ...]:
    layer = (
        Copy("layernorm_before", "input_layernorm", parts=norm_parts(config)),
        FusedQkv(
            ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
            "self_attention.linear_qkv",
            parts=WEIGHT_AND_BIAS if config.add_qkv_bias else WEIGHT,
            **heads(config),
        ),
        *(Copy(f"attention.{name}_norm", f"self_attention.{name}_layernorm") for name in "qk" if config.qk_layernorm),
        Copy("attention.projection_layer", "self_attention.linear_proj", parts=WEIGHT_AND_BIAS),
        Copy("lambda_1", "self_attn_bda.weight", parts=TENSOR),
        Copy("layernorm_after", "pre_mlp_layernorm", parts=norm_parts(config)),
        *mlp_rules(),
        Copy("lambda_2", "mlp_bda.weight", parts=TENSOR),
    )
    return (
        Copy("embeddings.cls_token", "class_embedding", parts=TENSOR),
        Copy("embeddings.patch_embeddings.projection", "patch_embedding", parts=WEIGHT_AND_BIAS),
        Copy("embeddings.position_embeddings", "position_embedding", parts=TENSOR),
        *all_layers(config, layer, "encoder.layer.{i}."),
    )


def opengvlab_rules(config: InternVitConfig) -> tuple[Rule, ...]:
    layer = (
        Copy("norm1", "input_layernorm", parts=norm_parts(config)),
        StackedQkv("attn.qkv", "self_attention.linear_qkv", parts=WEIGHT_AND_BIAS if config.add_qkv_bias else WEIGHT, **heads(config)),
        *(Copy(f"attn.{name}_norm", f"self_attention.{name}_layernorm") for name in "qk" if config.qk_layernorm),
        Copy("attn.proj", "self_attention.linear_proj", parts=WEIGHT_AND_BIAS),
        Copy("ls1", "self_attn_bda.weight", parts=TENSOR),
        Copy("norm2", "pre_mlp_layernorm", parts=norm_parts(config)),
        *mlp_rules(),
        Copy("ls2", "mlp_bda.weight", parts=TENSOR),
    )
    return (
        Copy("embeddings.class_embedding", "class_embedding", parts=TENSOR),
        Copy("embeddings.patch_embedding", "patch_embedding", parts=WEIGHT_AND_BIAS),
        Copy("embeddings.position_embedding", "position_embedding", parts=TENSOR),
        *all_layers(config, layer, "encoder.layers.{i}."),
    )


def mlp_rules() -> tuple[Rule, ...]:
    return (
        Copy("mlp.fc1", "mlp.linear_fc1", parts=WEIGHT_AND_BIAS),
        Copy("mlp.fc2", "mlp.linear_fc2", parts=WEIGHT_AND_BIAS),
    )


def norm_parts(config: InternVitConfig) -> tuple[str, ...]:
    return WEIGHT_AND_BIAS if config.normalization == "LayerNorm" else WEIGHT


def heads(config: InternVitConfig) -> Mapping[str, int]:
    number = config.num_attention_heads
    return {"num_heads": number, "num_groups": number, "head_size": config.hidden_size // number}
