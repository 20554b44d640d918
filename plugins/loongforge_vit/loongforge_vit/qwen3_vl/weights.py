"""Qwen3-VL's vision tower on disk: what is under `model.visual.` in a published folder, the mergers apart.

The mergers are the projector's, so that `transformers.Qwen3VLVisionModel` is this table and the projector's together.
"""

from __future__ import annotations

from loongforge_core.weights.config_keys import Constant, Key
from loongforge_core.weights.rules import WEIGHT, WEIGHT_AND_BIAS, Copy
from loongforge_core.weights.table import Table
from loongforge_vit.native_resolution.weights import ELSEWHERE, block_rules, size_keys
from loongforge_vit.qwen3_vl.config import Qwen3VlConfig

__all__ = ["table"]

MLP = (
    Copy("mlp.linear_fc1", "mlp.linear_fc1", parts=WEIGHT_AND_BIAS),
    Copy("mlp.linear_fc2", "mlp.linear_fc2", parts=WEIGHT_AND_BIAS),
)


def table(config: Qwen3VlConfig) -> Table:
    return Table(
        rules=(
            Copy("patch_embed.proj", "patch_embedding", parts=WEIGHT_AND_BIAS),
            Copy("pos_embed", "position_embedding", parts=WEIGHT),
            *block_rules(config, norm_parts=WEIGHT_AND_BIAS, mlp=MLP),
        ),
        keys=(
            *size_keys(Qwen3VlConfig),
            Key("num_position_embeddings", "num_position_embeddings", 2304),
            Key("deepstack_visual_indexes", "deepstack_visual_indexes", [8, 16, 24]),
            Key("rope_parameters.rope_theta", "rotary_base", 10_000.0),
            Constant("rope_parameters.rope_type", "axial", "axial"),
            Constant("hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh"),
        ),
        model_type="qwen3_vl_vision",
        config_at={"qwen3_vl": "vision_config", "qwen3_vl_moe": "vision_config", "qwen3_vl_moe_vision": ""},
        aliases={"model.visual.": "", "visual.": ""},
        ignored=ELSEWHERE,
    )
