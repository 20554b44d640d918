"""Qwen2.5-VL's vision tower on disk: what is under `visual.` in a published folder, the merger apart.

The merger is the projector's, so that transformers' `Qwen2_5_VisionTransformerPretrainedModel` is this table and the projector's together.
"""

from __future__ import annotations

from loongforge_core.weights.config_keys import Constant, Ignored, Key
from loongforge_core.weights.rules import WEIGHT, WEIGHT_AND_BIAS, Copy, FusedGateUp
from loongforge_core.weights.table import Table
from loongforge_vit.native_resolution.weights import ELSEWHERE, block_rules, size_keys
from loongforge_vit.qwen2_5_vl.config import Qwen25VlConfig

__all__ = ["table"]

MLP = (
    FusedGateUp(("mlp.gate_proj", "mlp.up_proj"), "mlp.linear_fc1", parts=WEIGHT_AND_BIAS),
    Copy("mlp.down_proj", "mlp.linear_fc2", parts=WEIGHT_AND_BIAS),
)


def table(config: Qwen25VlConfig) -> Table:
    return Table(
        rules=(
            Copy("patch_embed.proj", "patch_embedding", parts=WEIGHT),
            *block_rules(config, norm_parts=WEIGHT, mlp=MLP),
        ),
        keys=(
            *size_keys(Qwen25VlConfig),
            Key("window_size", "window_size", 112),
            Key("fullatt_block_indexes", "fullatt_block_indexes", [7, 15, 23, 31]),
            Key("rope_parameters.rope_theta", "rotary_base", 10_000.0),
            Constant("rope_parameters.rope_type", "axial", "axial"),
            Constant("hidden_act", "silu", "silu"),
            Ignored(("tokens_per_second",), "how the language model counts time, which the recipe says"),
            Ignored(("spatial_patch_size",), "written by earlier versions of transformers, and read by none"),
        ),
        model_type="qwen2_5_vl_vision",
        config_at={"qwen2_5_vl": "vision_config"},
        aliases={"model.visual.": "", "visual.": ""},
        ignored=ELSEWHERE,
    )
