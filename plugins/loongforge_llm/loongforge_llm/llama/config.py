"""Llama 2, 3 and 3.1: what differs from the shared decoder."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from loongforge_core.layers.decoder_config import DecoderConfig

__all__ = ["LlamaConfig"]


class LlamaConfig(DecoderConfig):
    """No biases."""

    add_qkv_bias: Literal[False] = False
    qk_layernorm: Literal[False] = False
    sliding_window: None = None
    layernorm_epsilon: PositiveFloat = 1e-5
    rotary_base: PositiveFloat = 5e5
