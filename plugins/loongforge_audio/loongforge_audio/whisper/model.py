"""Whisper's encoder (Radford et al. 2022, arXiv:2212.04356) on Megatron's transformer layers.

Reference: `transformers.models.whisper.modeling_whisper.WhisperEncoder`. Left out: the decoder, dropout and layer drop, both zero in the
published configurations.

Shapes: F frames of all sounds, M mel bins, b sounds, T frames of the longest, s positions of the longest, h width, t positions of all
sounds, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from loongforge_audio.whisper.attention import whisper_layer
from loongforge_audio.whisper.config import WhisperConfig
from loongforge_core.component import Initial, InitialValues, Shape
from loongforge_core.layers.interfaces import BuildContext, Encoder, Features, Items
from loongforge_core.layers.norms import LayerNorm
from loongforge_core.layers.packing import packed_row
from loongforge_core.layers.specs import block_spec
from loongforge_core.layers.transformer_config import transformer_config

__all__ = ["WhisperEncoder", "sinusoids"]


class WhisperEncoder(Encoder[WhisperConfig]):
    """Log-mel frames -> a feature for every 20 ms, silence included."""

    def __init__(self, config: WhisperConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        megatron = transformer_config(config, context)
        layer = whisper_layer(megatron, context.backend)
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.hidden_size, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.hidden_size, config.hidden_size, kernel_size=3, stride=2, padding=1)
        self.position_embedding = nn.Embedding(config.max_source_positions, config.hidden_size).requires_grad_(False)
        self.transformer = TransformerBlock(
            config=megatron,
            spec=block_spec(megatron, context.backend, [layer] * config.num_layers),
            post_layer_norm=False,
            pg_collection=context.groups,
        )
        self.final_layernorm = LayerNorm(megatron, config.hidden_size, megatron.layernorm_epsilon)

    def initial_values(self) -> InitialValues:
        fixed = {"position_embedding.weight": Initial("given", values=sinusoids)}
        return InitialValues.transformer(self.config.init_method_std, first=fixed)

    def forward(self, items: Items) -> Features:
        """`input_features` [F, M]: the log-mel frames that the processor makes, one sound's after another's."""
        lengths = [self.config.num_positions(size) for size in items.sizes]
        hidden_bsh = self.embed(items)
        if len(set(lengths)) == 1:
            hidden_sbh, packed = hidden_bsh[:, : lengths[0]].transpose(0, 1).contiguous(), None
        else:
            pieces = [hidden_sh[:length] for hidden_sh, length in zip(hidden_bsh, lengths, strict=True)]
            hidden_sbh, packed = torch.cat(pieces).unsqueeze(1), packed_row(lengths, device=hidden_bsh.device)
        hidden_sbh = self.transformer(hidden_states=hidden_sbh, attention_mask=None, packed_seq_params=packed)
        hidden_th = hidden_sbh.transpose(0, 1).flatten(0, 1)
        features_Nh = self.final_layernorm(self.pool(hidden_th, lengths))
        return Features(features_Nh, tuple(self.config.token_grid(size) for size in items.sizes))

    def embed(self, items: Items) -> Tensor:
        """`[b, s, h]`; what is behind a sound's own positions means nothing, and is not seen from within them."""
        rows = [self.config.num_rows(size) for size in items.sizes]
        features_FM = items.inputs["input_features"].to(self.conv1.weight.dtype)
        features_bMT = pad_sequence(list(features_FM.split(rows)), batch_first=True).transpose(1, 2)
        hidden_bhs = F.gelu(self.conv2(F.gelu(self.conv1(features_bMT))))
        hidden_bsh = hidden_bhs.transpose(1, 2)
        return hidden_bsh + self.position_embedding.weight[: hidden_bsh.shape[1]]

    def pool(self, hidden_th: Tensor, lengths: Sequence[int]) -> Tensor:
        """`[N, h]` of the positions of sounds so many positions long: as they are."""
        return hidden_th


def sinusoids(shape: Shape) -> np.ndarray:
    """Positions: sines, then cosines, of wavelengths from 2 pi to 10,000 times as long. Stored with the weights, never trained."""
    length, width = shape
    frequencies = np.exp(-math.log(10_000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(length)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
