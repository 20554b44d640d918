"""CLIP's vision tower on disk: the half of a published `CLIPModel` under `vision_model.`, or `CLIPVisionModel` alone.

Published folders have the prefix `vision_model.`, freshly saved ones do not; both are read, the published form is written.
"""

from __future__ import annotations

from loongforge_core.weights.config_keys import GENERIC_KEYS, Constant, Ignored, Key
from loongforge_core.weights.rules import TENSOR, WEIGHT, WEIGHT_AND_BIAS, Copy, Rule
from loongforge_core.weights.table import Table
from loongforge_vit.clip.config import ClipConfig
from loongforge_vit.tower.weights import clip_layers

__all__ = ["table"]

PUBLISHED_PREFIX = "vision_model."


def table(config: ClipConfig) -> Table:
    return Table(
        rules=tuple(rule.under(PUBLISHED_PREFIX, "") for rule in rules(config)),
        keys=(
            Key("num_hidden_layers", "num_layers", 12),
            Key("hidden_size", "hidden_size", 768),
            Key("intermediate_size", "ffn_hidden_size", 3072),
            Key("num_attention_heads", "num_attention_heads", 12),
            Key("image_size", "image_size", 224),
            Key("patch_size", "patch_size", 32),
            Key("num_channels", "num_channels", 3),
            Key("layer_norm_eps", "layernorm_epsilon", 1e-5),
            Key("hidden_act", "activation", "quick_gelu", values={"quick_gelu": "quick_gelu", "gelu": "gelu"}),
            Constant("attention_dropout", 0.0, 0.0),
            Ignored(("projection_dim", "dropout", "vocab_size"), "of a CLIPModel's other parts"),
            GENERIC_KEYS,
        ),
        model_type="clip_vision_model",
        architectures=("CLIPVisionModel",),
        config_at={"clip": "vision_config"},
        aliases={"": PUBLISHED_PREFIX},
        ignored={
            "text_model.*": "the text half of a CLIPModel",
            "text_projection.weight": "joins the two halves of a CLIPModel",
            "visual_projection.weight": "joins the two halves of a CLIPModel",
            "logit_scale": "joins the two halves of a CLIPModel",
            "*embeddings.position_ids": "a buffer of 0, 1, 2, ... that earlier versions of transformers stored",
        },
        carried={"unused_layers.*": "behind the feature layer", "post_layernorm.*": "of the pooled output, which is not made here"},
    )


def rules(config: ClipConfig) -> tuple[Rule, ...]:
    return (
        Copy("embeddings.class_embedding", "class_embedding", parts=TENSOR),
        Copy("embeddings.patch_embedding", "patch_embedding", parts=WEIGHT),
        Copy("embeddings.position_embedding", "position_embedding", parts=WEIGHT),
        Copy("pre_layrnorm", "pre_layernorm", parts=WEIGHT_AND_BIAS),  # their spelling
        *clip_layers(config),
        Copy("post_layernorm", "post_layernorm", parts=WEIGHT_AND_BIAS),
    )
