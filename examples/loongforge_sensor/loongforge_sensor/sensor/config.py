"""The sensor encoder: sizes and token counts. Imports no torch."""

from __future__ import annotations

from pydantic import PositiveInt

from loongforge_core import EncoderConfig, Shape

__all__ = ["SensorConfig"]


class SensorConfig(EncoderConfig):
    """Convolutions of stride two, one after another."""

    hidden_size: PositiveInt = 64
    """Channels of every convolution, and width of the features."""
    num_convolutions: PositiveInt = 3
    """Each halves the length, rounding up: a token stands for 2 ** num_convolutions values."""

    @property
    def feature_size(self) -> int:
        return self.hidden_size

    def token_grid(self, size: Shape) -> Shape:
        """`size` is (values,), the length of the waveform."""
        (length,) = size
        return (-(-length // 2**self.num_convolutions),)
