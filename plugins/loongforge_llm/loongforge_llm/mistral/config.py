"""Mistral 7B, Nemo and Small: what differs from the shared decoder."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from loongforge_core.layers.decoder_config import DecoderConfig

__all__ = ["MistralConfig"]


class MistralConfig(DecoderConfig):
    """No biases. The first 7B attends within a `sliding_window`, those after it to all tokens before."""

    tiny = {**DecoderConfig.tiny, "sliding_window": 8}

    add_qkv_bias: Literal[False] = False
    qk_layernorm: Literal[False] = False
    layernorm_epsilon: PositiveFloat = 1e-5
    rotary_base: PositiveFloat = 1e6
