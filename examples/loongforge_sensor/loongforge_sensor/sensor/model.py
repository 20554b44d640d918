"""Strided convolutions over waveforms, after the stem of Whisper's encoder (Radford et al. 2022, arXiv:2212.04356).

Shapes: t values of all waveforms together, b waveforms, T values of the longest, W width, N tokens of all waveforms together.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from loongforge_core import BuildContext, Encoder, Features, Initial, InitialValues, Items
from loongforge_sensor.sensor.config import SensorConfig

__all__ = ["SensorEncoder"]

KERNEL_SIZE = 3


class SensorEncoder(Encoder[SensorConfig]):
    """Waveforms of any length -> a feature for every 2 ** num_convolutions values."""

    def __init__(self, config: SensorConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        widths = [1] + [config.hidden_size] * config.num_convolutions
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width_in, width_out, KERNEL_SIZE, stride=2, padding=1) for width_in, width_out in pairwise(widths)
        )
        self.norm = nn.LayerNorm(config.hidden_size)

    def initial_values(self) -> InitialValues:
        """Convolutions keep the variance of what passes through them (He et al. 2015, arXiv:1502.01852)."""
        first, others = (math.sqrt(2 / (KERNEL_SIZE * width_in)) for width_in in (1, self.config.hidden_size))
        return InitialValues(
            {
                "convolutions.0.weight": Initial("normal", first),
                "convolutions.*.weight": Initial("normal", others),
                "norm.weight": Initial("constant", 1.0),
                "*.bias": Initial("constant", 0.0),
            }
        )

    def forward(self, items: Items) -> Features:
        """`values` `[t]` of any real dtype, each waveform normalised by the processor."""
        lengths = [length for (length,) in items.sizes]
        values_t = items.inputs["values"].to(self.norm.weight.dtype)
        hidden_bWT = pad_sequence(list(torch.split(values_t, lengths)), batch_first=True)[:, None]
        for convolution in self.convolutions:
            lengths = [(length + 1) // 2 for length in lengths]
            hidden_bWT = F.gelu(convolution(hidden_bWT)) * within(lengths, hidden_bWT.device)
        hidden_NW = torch.cat([hidden_WT[:, :length].T for hidden_WT, length in zip(hidden_bWT, lengths)])
        return Features(self.norm(hidden_NW), tuple((length,) for length in lengths))


def within(lengths: list[int], device: torch.device) -> Tensor:
    """Which places belong to a waveform, `[b, 1, T]`. Beyond its end are zeros, as if each waveform were alone."""
    places = torch.arange(max(lengths), device=device)
    return (places < torch.tensor(lengths, device=device)[:, None])[:, None]
