"""Rotary positions (Su et al. 2021, arXiv:2104.09864) by position id, of one axis or three (M-RoPE), and their scaling.

Shapes: a axes of a position, b batch, s sequence, n heads, d head width, f = d / 2 frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from loongforge_core.layers.rotary_config import (
    DynamicRotaryScaling,
    LinearRotaryScaling,
    Llama3RotaryScaling,
    RotaryScaling,
    YarnRotaryScaling,
)

if TYPE_CHECKING:
    from loongforge_core.layers.decoder_config import DecoderConfig

__all__ = ["RotaryAngles", "rotate"]


class RotaryAngles(nn.Module):
    """Cosine and sine of every token's angles, computed once for all layers. Nothing of it is stored."""

    inverse_frequency: Tensor
    axis_of_frequency: Tensor | None

    def __init__(
        self,
        head_size: int,
        base: float,
        scaling: RotaryScaling | None = None,
        *,
        lengthened: float = 1.0,
        mrope_section: Sequence[int] | None = None,
        mrope_interleaved: bool = False,
    ) -> None:
        """`lengthened`: the run's longest sequence over the model's `max_position_embeddings`, for scaling that depends on it."""
        super().__init__()
        self.magnitude = scaling.magnitude if isinstance(scaling, YarnRotaryScaling) else 1.0
        self.register_buffer("inverse_frequency", frequencies(head_size, base, scaling, lengthened), persistent=False)
        axes = axes_of_frequencies(mrope_section, mrope_interleaved) if mrope_section else None
        self.register_buffer("axis_of_frequency", axes, persistent=False)

    @classmethod
    def of(cls, config: DecoderConfig, longest: int | None) -> Self:
        """A decoder's, in a run with sequences of up to `longest` tokens."""
        return cls(
            config.head_size,
            config.rotary_base,
            config.rotary_scaling,
            lengthened=(longest or 0) / config.max_position_embeddings,
            mrope_section=config.mrope_section,
            mrope_interleaved=config.mrope_interleaved,
        )

    def forward(self, position_ids: Tensor, dtype: torch.dtype) -> Tensor:
        """`[2, s, b, 1, f]`: cosines, then sines, of positions `[b, s]`, or `[a, b, s]` where there is an `mrope_section`.

        The angles are float32 whatever `dtype` is.
        """
        frequency = self.inverse_frequency.to(position_ids.device, torch.float32, non_blocking=True)
        if self.axis_of_frequency is None:
            position_sbf = position_ids.t().unsqueeze(-1)
        else:
            assert position_ids.dim() == 3, f"positions of three axes were expected, given is {list(position_ids.shape)}"
            position_sbf = position_ids[self.axis_of_frequency.to(position_ids.device, non_blocking=True)].permute(2, 1, 0)
        angles_sbf = position_sbf.float() * frequency
        rotation = torch.stack((angles_sbf.cos(), angles_sbf.sin())).unsqueeze(3)
        return (rotation if self.magnitude == 1.0 else rotation * self.magnitude).to(dtype)


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
    turned = torch.empty((batch, heads, sequence, width), dtype=cosine.dtype, device=heads_sbnd.device).permute(2, 0, 1, 3)
    turned_first, turned_second = turned.chunk(2, dim=-1)
    torch.mul(first, cosine, out=turned_first).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=turned_second).addcmul_(first, sine)
    return turned.to(heads_sbnd.dtype)


def rotate(heads_sbnd: Tensor, rotation: Tensor) -> Tensor:
    """Heads `[s, b, n, d]` turned by what `RotaryAngles` returned, in its precision, and of their own."""
    turned: Tensor = Rotation.apply(heads_sbnd, rotation)  # type: ignore[no-untyped-call]
    return turned


def axes_of_frequencies(section: Sequence[int], interleaved: bool) -> Tensor:
    """Which axis of a position each frequency turns by, 0 time, 1 height, 2 width: int64 `[f]`."""
    if not interleaved:
        return torch.arange(3, device="cpu").repeat_interleave(torch.tensor(section, device="cpu"))
    axes = torch.zeros(sum(section), dtype=torch.int64, device="cpu")
    for axis in (1, 2):
        axes[axis : 3 * section[axis] : 3] = axis
    return axes


def frequencies(head_size: int, base: float, scaling: RotaryScaling | None, lengthened: float) -> Tensor:
    """Radians per position, float32 `[f]`, to the last bit those of transformers: far from the start, one bit is a visible angle."""
    if isinstance(scaling, DynamicRotaryScaling):
        base = scaling.base(base, head_size, lengthened)
    # On the CPU whatever the default device: a model built on `meta` has its frequencies at once.
    exponent = torch.arange(0, head_size, 2, dtype=torch.int64, device="cpu").float() / head_size
    wavelength = base**exponent
    match scaling:
        case LinearRotaryScaling():
            return 1.0 / wavelength / scaling.factor
        case Llama3RotaryScaling():
            return scale_like_llama3(1.0 / wavelength, scaling)
        case YarnRotaryScaling():
            return scale_like_yarn(wavelength, base, scaling)
        case _:
            return 1.0 / wavelength


def scale_like_llama3(frequency: Tensor, scaling: Llama3RotaryScaling) -> Tensor:
    """Divides long wavelengths by the factor, keeps short ones, blends those between (Llama 3.1 model card)."""
    wavelength = 2 * math.pi / frequency
    turns = scaling.original_max_position_embeddings / wavelength
    kept = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return kept * frequency + (1 - kept) * frequency / scaling.factor


def scale_like_yarn(wavelength: Tensor, base: float, scaling: YarnRotaryScaling) -> Tensor:
    """Keeps frequencies up to the one that turns `beta_fast` times, divides those from `beta_slow` on, blends those between."""
    head_size = 2 * len(wavelength)

    def index_of(turns: float) -> float:
        """Where a frequency would lie that turns so often over the original positions."""
        positions_a_radian = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return (head_size * math.log(positions_a_radian)) / (2 * math.log(base))

    first, last = index_of(scaling.beta_fast), index_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_size - 1)
    width = last - first or 0.001  # a step instead of a division by zero
    kept = 1 - ((torch.arange(len(wavelength), dtype=torch.float32, device="cpu") - first) / width).clamp(0, 1)
    return 1.0 / (scaling.factor * wavelength) * (1 - kept) + 1.0 / wavelength * kept
