"""Qwen3 (dense): what differs from the shared decoder."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from loongforge_core.layers.decoder_config import DecoderConfig

__all__ = ["Qwen3Config"]


class Qwen3Config(DecoderConfig):
    """Queries and keys are normalised head by head; no biases. Heads are 128 wide whatever the width of the model."""

    tiny = {**DecoderConfig.tiny, "kv_channels": 8}

    kv_channels: PositiveInt = 128
    add_qkv_bias: Literal[False] = False
    qk_layernorm: Literal[True] = True
    sliding_window: None = None
    max_position_embeddings: PositiveInt = 40960
    rotary_base: PositiveFloat = 1e6
