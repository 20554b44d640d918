"""RICE-ViT on disk: what is under `visual.` in a folder of LLaVA-OneVision 1.5, the merger apart, which is the projector's."""

from __future__ import annotations

from loongforge_core.weights.config_keys import Constant, Derived, Ignored, Key
from loongforge_core.weights.rules import TENSOR, WEIGHT, WEIGHT_AND_BIAS, Copy
from loongforge_core.weights.table import Table
from loongforge_vit.native_resolution.weights import ELSEWHERE, block_rules, size_keys
from loongforge_vit.rice_vit.config import RiceVitConfig

__all__ = ["table"]

MLP = (
    Copy("mlp.fc1", "mlp.linear_fc1", parts=WEIGHT_AND_BIAS),
    Copy("mlp.fc2", "mlp.linear_fc2", parts=WEIGHT_AND_BIAS),
)


def table(config: RiceVitConfig) -> Table:
    return Table(
        rules=(
            Copy("patch_embed.proj", "patch_embedding", parts=WEIGHT),
            Copy("class_embedding", "class_embedding", parts=TENSOR),
            Copy("class_pos_emb", "class_position", parts=TENSOR),
            Copy("pre_layernorm", "pre_layernorm", parts=WEIGHT_AND_BIAS),
            *block_rules(config, norm_parts=WEIGHT_AND_BIAS, mlp=MLP),
        ),
        keys=(
            *size_keys(RiceVitConfig),
            Key("layer_norm_eps", "layernorm_epsilon", 1e-5),
            Derived("embed_dim", lambda config: config.hidden_size),
            Constant("hidden_act", "gelu", "gelu"),
            Ignored(("text_hidden_size",), "the projector's"),
        ),
        model_type="rice_vit",
        config_at={"llavaonevision1_5": "vision_config"},
        aliases={"model.visual.": "", "visual.": ""},
        ignored=ELSEWHERE,
    )
