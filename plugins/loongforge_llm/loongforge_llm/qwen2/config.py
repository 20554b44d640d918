"""Qwen1.5, Qwen2 and Qwen2.5 (dense): what differs from the shared decoder."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from loongforge_core.layers.decoder_config import DecoderConfig

__all__ = ["Qwen2Config"]


class Qwen2Config(DecoderConfig):
    """Biases on queries, keys and values only."""

    add_qkv_bias: Literal[True] = True
    qk_layernorm: Literal[False] = False
    sliding_window: None = None
    rotary_base: PositiveFloat = 1e6
