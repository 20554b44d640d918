"""DeepSeek-V2 and V2-Lite: what differs from the shared decoder."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from loongforge_core.layers.expert_config import ExpertDecoderConfig
from loongforge_core.layers.latent_config import LatentDecoderConfig

__all__ = ["DeepseekV2Config", "check_published_form"]


class DeepseekV2Config(LatentDecoderConfig, ExpertDecoderConfig):
    """Latent attention; experts chosen by softmax, in V2 out of a few groups, whose weights do not add up to one."""

    tiny = {
        **LatentDecoderConfig.tiny,
        "num_moe_experts": 4,
        "moe_ffn_hidden_size": 8,
        "moe_router_topk": 2,
        "moe_shared_expert_intermediate_size": 16,
        "moe_layer_freq": [0, 1, 1],
    }

    add_qkv_bias: Literal[False] = False
    qk_layernorm: Literal[False] = False
    layernorm_epsilon: float = 1e-6
    moe_router_score_function: Literal["softmax"] = "softmax"
    moe_router_pre_softmax: Literal[True] = True
    moe_router_enable_expert_bias: Literal[False] = False
    moe_router_bias_update_rate: Literal[0] = 0

    @model_validator(mode="after")
    def _check_published_form(self) -> DeepseekV2Config:
        check_published_form(self)
        return self


def check_published_form(config: ExpertDecoderConfig) -> None:
    """Raises ValueError for what the published classes cannot express."""
    if config.layernorm_epsilon != 1e-6:
        raise ValueError(f"layernorm_epsilon is {config.layernorm_epsilon}, but the published norms of latent states have 1e-6 in any case")
    if sorted(config.expert_layers) != list(config.expert_layers):
        raise ValueError("moe_layer_freq has a dense layer behind one with experts; expected all dense ones first, such as [0, 1, 1]")
    shared, expert = config.moe_shared_expert_intermediate_size, config.moe_ffn_hidden_size
    if shared is None or shared % expert:
        raise ValueError(f"moe_shared_expert_intermediate_size is {shared}, expected a multiple of moe_ffn_hidden_size {expert}")
