"""Qwen3 with experts: what differs from the shared decoder."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from loongforge_core.layers.expert_config import ExpertDecoderConfig

__all__ = ["Qwen3MoeConfig"]


class Qwen3MoeConfig(ExpertDecoderConfig):
    """Normalised queries and keys, no biases; experts chosen by softmax, no shared ones."""

    tiny = {**ExpertDecoderConfig.tiny, "kv_channels": 8}

    add_qkv_bias: Literal[False] = False
    qk_layernorm: Literal[True] = True
    rotary_base: PositiveFloat = 1e6
    moe_shared_expert_intermediate_size: None = None
    moe_router_score_function: Literal["softmax"] = "softmax"
    moe_router_topk_scaling_factor: Literal[1] = 1
    moe_router_num_groups: None = None
    moe_router_group_topk: None = None
    moe_router_enable_expert_bias: Literal[False] = False
    moe_router_bias_update_rate: Literal[0] = 0
