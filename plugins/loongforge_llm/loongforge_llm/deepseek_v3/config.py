"""DeepSeek-V3: what differs from the shared decoder."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from loongforge_core.layers.expert_config import ExpertDecoderConfig
from loongforge_core.layers.latent_config import LatentDecoderConfig
from loongforge_llm.deepseek_v2.config import DeepseekV2Config, check_published_form

__all__ = ["DeepseekV3Config"]


class DeepseekV3Config(LatentDecoderConfig, ExpertDecoderConfig):
    """Latent attention; experts chosen by sigmoid and a bias, out of a few groups."""

    tiny = {**DeepseekV2Config.tiny, "moe_router_num_groups": 2, "moe_router_group_topk": 1}

    add_qkv_bias: Literal[False] = False
    qk_layernorm: Literal[False] = False
    layernorm_epsilon: float = 1e-6
    moe_router_score_function: Literal["sigmoid"] = "sigmoid"
    moe_router_pre_softmax: Literal[False] = False
    moe_router_enable_expert_bias: Literal[True] = True
    moe_router_topk_scaling_factor: PositiveFloat = 2.5
    moe_router_num_groups: PositiveInt = 8
    moe_router_group_topk: PositiveInt = 4
    mtp_num_layers: NonNegativeInt = 0
    """Layers that predict the tokens after the next one. They are carried from import to export, and neither run nor trained."""

    @model_validator(mode="after")
    def _check_published_form(self) -> DeepseekV3Config:
        check_published_form(self)
        return self
