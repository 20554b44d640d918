"""Rotary positions (Su et al. 2021, arXiv:2104.09864) as angles by position id, and Llama 3.1's scaling.

Shapes: b batch, s sequence, d head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from loongforge_core.layers.decoder_config import Llama3RotaryScaling

__all__ = ["RotaryAngles"]


class RotaryAngles(nn.Module):
    """Angles of every position, for Megatron's `rotary_pos_emb`. Nothing of it is stored."""

    inverse_frequency: Tensor

    def __init__(self, head_size: int, base: float, scaling: Llama3RotaryScaling | None = None) -> None:
        super().__init__()
        # On the CPU whatever the default device: a model built on `meta` has its frequencies at once.
        exponent = torch.arange(0, head_size, 2, dtype=torch.int64, device="cpu").float() / head_size
        frequency = 1.0 / base**exponent
        if scaling is not None:
            frequency = scale_like_llama3(frequency, scaling)
        self.register_buffer("inverse_frequency", frequency, persistent=False)

    def forward(self, position_ids_bs: Tensor) -> Tensor:
        """`[s, b, 1, d]` float32; both halves of d hold the same angles."""
        angles_sbf = position_ids_bs.t().unsqueeze(-1).float() * self.inverse_frequency.to(position_ids_bs.device)
        return torch.cat((angles_sbf, angles_sbf), dim=-1).unsqueeze(2)


def scale_like_llama3(frequency: Tensor, scaling: Llama3RotaryScaling) -> Tensor:
    """Divides long wavelengths by the factor, keeps short ones, blends those between (Llama 3.1 model card)."""
    wavelength = 2 * math.pi / frequency
    turns = scaling.original_max_position_embeddings / wavelength
    kept = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return kept * frequency + (1 - kept) * frequency / scaling.factor
