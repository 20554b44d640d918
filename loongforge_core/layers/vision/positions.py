"""Positions of patches in their frame: rotary ones in two axes, and learned ones drawn over any size.

Shapes: N patches of all items, h width, d head width, f = d / 4 frequencies of an axis.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from loongforge_core.component import Shape

__all__ = ["GridAngles", "interpolated_positions"]


class GridAngles(nn.Module):
    """Rotary positions in two axes (Su et al. 2021, arXiv:2104.09864): half of a head's pairs turn by the row, half by the column."""

    inverse_frequency: Tensor

    def __init__(self, head_size: int, base: float = 10_000.0) -> None:
        super().__init__()
        # On the CPU whatever the default device: a model built on `meta` has its frequencies at once.
        exponent = torch.arange(0, head_size // 2, 2, dtype=torch.int64, device="cpu").float() / (head_size // 2)
        self.register_buffer("inverse_frequency", 1.0 / base**exponent, persistent=False)

    def forward(self, sizes: Iterable[Shape], device: torch.device) -> Tensor:
        """`[2, N, 1, 1, d / 2]`, row by row: cosines, then sines, as `layers.rotary.rotate` takes them.

        They are float32, and so the turn is, whatever the tower is: that of every reference is too.
        """
        sizes = tuple(sizes)
        places = torch.arange(max(max(size[1:]) for size in sizes), device=device)
        angles_pf = places.unsqueeze(1).float() * self.inverse_frequency.to(device, torch.float32, non_blocking=True)
        table_2pf = torch.stack((angles_pf.cos(), angles_pf.sin()))
        return torch.cat([self.of_item(table_2pf, *size) for size in sizes], dim=1)[:, :, None, None]

    def of_item(self, table_2pf: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        shape = (2, frames, rows, columns, table_2pf.shape[-1])
        by_row, by_column = table_2pf[:, None, :rows, None], table_2pf[:, None, None, :columns]
        return torch.cat((by_row.expand(shape), by_column.expand(shape)), dim=-1).flatten(1, 3)


def interpolated_positions(table_ph: Tensor, sizes: Iterable[Shape]) -> Tensor:
    """A square table of learned positions, drawn over each frame from corner to corner, bilinear: `[N, h]` float32, row by row.

    Each axis is a small matrix. As a product of matrices its gradient needs no scattered addition, so that it is the same every time.
    """
    side = round(table_ph.shape[0] ** 0.5)
    table_pph = table_ph.float().view(side, side, -1)
    drawn: dict[Shape, Tensor] = {}
    for size in sizes:
        if size[1:] not in drawn:
            by_row, by_column = (axis_weights(side, length, table_ph.device) for length in size[1:])
            drawn[size[1:]] = torch.matmul(by_column, torch.tensordot(by_row, table_pph, dims=1)).flatten(0, 1)
    return torch.cat([drawn[size[1:]].repeat(size[0], 1) for size in sizes])


def axis_weights(side: int, length: int, device: torch.device) -> Tensor:
    """`[length, side]`: how much of each entry of the table there is at each of `length` places from its first entry to its last."""
    places = torch.arange(length, device=device, dtype=torch.float32) * (side - 1) / max(length - 1, 1)
    entries = torch.arange(side, device=device, dtype=torch.float32)
    return (1 - (places.unsqueeze(1) - entries).abs()).clamp(min=0)
