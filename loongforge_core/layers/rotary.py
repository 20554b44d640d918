"""Rotary positions (Su et al. 2021, arXiv:2104.09864) by position id, and Llama 3.1's scaling.

Shapes: b batch, s sequence, n heads, d head width, f = d / 2 frequencies.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from loongforge_core.layers.decoder_config import Llama3RotaryScaling

__all__ = ["RotaryAngles", "rotate"]


class RotaryAngles(nn.Module):
    """Cosine and sine of every token's angles, computed once for all layers. Nothing of it is stored."""

    inverse_frequency: Tensor

    def __init__(self, head_size: int, base: float, scaling: Llama3RotaryScaling | None = None) -> None:
        super().__init__()
        # On the CPU whatever the default device: a model built on `meta` has its frequencies at once.
        exponent = torch.arange(0, head_size, 2, dtype=torch.int64, device="cpu").float() / head_size
        frequency = 1.0 / base**exponent
        if scaling is not None:
            frequency = scale_like_llama3(frequency, scaling)
        self.register_buffer("inverse_frequency", frequency, persistent=False)

    def forward(self, position_ids_bs: Tensor, dtype: torch.dtype) -> Tensor:
        """`[2, s, b, 1, d / 2]`: cosines, then sines; the angles are float32 whatever `dtype` is."""
        frequency = self.inverse_frequency.to(position_ids_bs.device, torch.float32)
        angles_sbf = position_ids_bs.t().unsqueeze(-1).float() * frequency
        return torch.stack((angles_sbf.cos(), angles_sbf.sin())).unsqueeze(3).to(dtype)


class Rotation(torch.autograd.Function):
    """Turns pairs (i, i + d / 2) of each head. Its gradient is the turn back, so that nothing but the angles is kept."""

    @staticmethod
    def forward(ctx: Any, heads_sbnd: Tensor, rotation: Tensor) -> Tensor:
        ctx.save_for_backward(rotation)
        cosine, sine = rotation
        return turn(heads_sbnd, cosine, sine)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rotation,) = ctx.saved_tensors
        cosine, sine = rotation
        return turn(gradient, cosine, -sine), None


def turn(heads_sbnd: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads_sbnd.chunk(2, dim=-1)
    sequence, batch, heads, width = heads_sbnd.shape
    # Laid out head by head, as attention reads it: with [s, b, n, d] in memory every step along s is a jump over the batch.
    turned = torch.empty((batch, heads, sequence, width), dtype=heads_sbnd.dtype, device=heads_sbnd.device).permute(2, 0, 1, 3)
    turned_first, turned_second = turned.chunk(2, dim=-1)
    torch.mul(first, cosine, out=turned_first).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=turned_second).addcmul_(first, sine)
    return turned


def rotate(heads_sbnd: Tensor, rotation: Tensor) -> Tensor:
    """Heads `[s, b, n, d]` turned by what `RotaryAngles` returned."""
    turned: Tensor = Rotation.apply(heads_sbnd, rotation)  # type: ignore[no-untyped-call]
    return turned


def scale_like_llama3(frequency: Tensor, scaling: Llama3RotaryScaling) -> Tensor:
    """Divides long wavelengths by the factor, keeps short ones, blends those between (Llama 3.1 model card)."""
    wavelength = 2 * math.pi / frequency
    turns = scaling.original_max_position_embeddings / wavelength
    kept = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return kept * frequency + (1 - kept) * frequency / scaling.factor
