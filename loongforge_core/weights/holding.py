"""What this process holds of each tensor, whatever the layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

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

    def published(self, piece: Piece) -> tuple[int, ...]:
        """The shape of a piece without rows that pad a vocabulary."""
        return tuple(
            max(0, min(size, whole - first)) for size, first, whole in zip(piece.tensor.shape, piece.offset, self.shape, strict=True)
        )


def holdings(components: Mapping[str, Component[Any]]) -> dict[str, Holding]:
    """By name, behind the component's prefix (`foundation.`, or nothing for a component alone)."""
    held: dict[str, Holding] = {}
    for prefix, component in components.items():
        for piece in pieces(component):
            rows = component.published_rows(piece.name)
            shape = piece.shape if rows is None else (rows, *piece.shape[1:])
            held.setdefault(prefix + piece.name, Holding(prefix + piece.name, shape)).pieces.append(piece)
    return held
