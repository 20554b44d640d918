"""What this process holds of each tensor, whatever the layout: filled from whole tensors, and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from loongforge_core.errors import WeightsError
from loongforge_core.layers.interfaces import Component
from loongforge_core.parallel.bookkeeping import Piece, pieces

__all__ = ["Holding", "holdings"]


@dataclass
class Holding:
    """The pieces of one tensor that are here."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor as published, without the rows that pad a vocabulary."""
    pieces: list[Piece] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        return self.pieces[0].tensor.dtype

    def fill(self, whole: Tensor) -> None:
        """Copies this process's slices out of `whole`; padding becomes zero. Converts to the parameter's dtype."""
        for piece in self.pieces:
            part = whole[piece.slices]
            piece.tensor.zero_()
            piece.tensor[tuple(slice(size) for size in part.shape)].copy_(part)

    def whole(self) -> Tensor:
        """The whole tensor. Raises WeightsError where this process holds only a part of it."""
        if self.pieces[0].shape == self.shape == tuple(self.pieces[0].tensor.shape):
            return self.pieces[0].tensor
        tensor = self.pieces[0].tensor.new_empty(self.shape)
        filled = 0
        for piece in self.pieces:
            part = tensor[piece.slices]
            part.copy_(piece.tensor[tuple(slice(size) for size in part.shape)])
            filled += part.numel()
        if filled != tensor.numel():
            raise WeightsError(
                f"{self.name}: this process holds {filled} of {tensor.numel()} values; export from a checkpoint in one process"
            )
        return tensor


def holdings(components: Mapping[str, Component[Any]]) -> dict[str, Holding]:
    """By name, behind the component's prefix (`foundation.`, or nothing for a component alone)."""
    held: dict[str, Holding] = {}
    for prefix, component in components.items():
        for piece in pieces(component):
            rows = component.published_rows(piece.name)
            shape = piece.shape if rows is None else (rows, *piece.shape[1:])
            held.setdefault(prefix + piece.name, Holding(prefix + piece.name, shape)).pieces.append(piece)
    return held
