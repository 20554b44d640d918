"""SigLIP's vision tower on disk: the half of a published `SiglipModel` under `vision_model.`, or `SiglipVisionModel` alone.

Published folders have the prefix `vision_model.`, freshly saved ones do not; both are read, the published form is written.
"""

from __future__ import annotations

from collections.abc import Mapping

from loongforge_core.weights.config_keys import GENERIC_KEYS, Constant, Key
from loongforge_core.weights.rules import TENSOR, WEIGHT, WEIGHT_AND_BIAS, Copy, Rule
from loongforge_core.weights.table import Table
from loongforge_vit.siglip.config import SiglipConfig
from loongforge_vit.tower.weights import clip_layers

__all__ = ["table"]

PUBLISHED_PREFIX = "vision_model."


def table(config: SiglipConfig) -> Table:
    return Table(
        rules=tuple(rule.under(PUBLISHED_PREFIX, "") for rule in rules(config)),
        keys=(
            Key("num_hidden_layers", "num_layers", 12),
            Key("hidden_size", "hidden_size", 768),
            Key("intermediate_size", "ffn_hidden_size", 3072),
            Key("num_attention_heads", "num_attention_heads", 12),
            Key("image_size", "image_size", 224),
            Key("patch_size", "patch_size", 16),
            Key("num_channels", "num_channels", 3),
            Key("layer_norm_eps", "layernorm_epsilon", 1e-6),
            Key("vision_use_head", "attention_pooling_head", True),
            Constant("hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh"),
            Constant("attention_dropout", 0.0, 0.0),
            GENERIC_KEYS,
        ),
        model_type="siglip_vision_model",
        architectures=("SiglipVisionModel",),
        config_at={"siglip": "vision_config"},
        aliases={"": PUBLISHED_PREFIX},
        ignored={
            "text_model.*": "the text half of a SiglipModel",
            "logit_scale": "joins the two halves of a SiglipModel",
            "logit_bias": "joins the two halves of a SiglipModel",
            "*embeddings.position_ids": "a buffer of 0, 1, 2, ... that earlier versions of transformers stored",
        },
        carried=carried(config),
    )


def rules(config: SiglipConfig) -> tuple[Rule, ...]:
    return (
        Copy("embeddings.patch_embedding", "patch_embedding", parts=WEIGHT_AND_BIAS),
        Copy("embeddings.position_embedding", "position_embedding", parts=WEIGHT),
        *clip_layers(config),
        Copy("post_layernorm", "post_layernorm", parts=WEIGHT_AND_BIAS),
        *(head_rules() if config.attention_pooling_head else ()),
    )


def head_rules() -> tuple[Rule, ...]:
    tensors = ("probe", "attention.in_proj_weight", "attention.in_proj_bias")
    modules = ("attention.out_proj", "layernorm", "mlp.fc1", "mlp.fc2")
    return (
        *(Copy(f"head.{name}", f"head.{name}", parts=TENSOR) for name in tensors),
        *(Copy(f"head.{name}", f"head.{name}", parts=WEIGHT_AND_BIAS) for name in modules),
    )


def carried(config: SiglipConfig) -> Mapping[str, str]:
    names = {"unused_layers.*": "behind the feature layer", "head.*": "pools features for contrastive training; never run here"}
    return names if config.final_norm else {**names, "post_layernorm.*": "not applied to the feature layer's output"}
