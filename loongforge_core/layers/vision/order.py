"""Orders in which the patches of all items lie: by row, by block, by window.

Shapes: N patches of all items.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from loongforge_core.component import Shape

__all__ = ["blocks_to_rows", "reorder", "rows_to_blocks", "rows_to_windows"]


def end_to_end(places: Iterable[Tensor]) -> Tensor:
    """The places in all items, one behind another, of what is so placed in each."""
    first, all_places = 0, []
    for each in places:
        all_places.append(each + first)
        first += len(each)
    return torch.cat(all_places)


def blocks_to_rows(sizes: Iterable[Shape], merge: int) -> Tensor:
    """`[N]`: for each patch, row by row, its place as processors emit them, in blocks of `merge x merge` neighbours."""
    return end_to_end(block_places(size, merge) for size in sizes)


def block_places(size: Shape, merge: int) -> Tensor:
    frames, rows, columns = size
    places = torch.arange(frames * rows * columns)
    return places.view(frames, rows // merge, columns // merge, merge, merge).transpose(2, 3).flatten()


def rows_to_blocks(grids: Iterable[Shape], merge: int) -> Tensor:
    """The other way round: for each patch, block by block, its place row by row. Grids may have any number of sides before the last two."""
    return end_to_end(
        torch.arange(math.prod(grid)).view(-1, grid[-2] // merge, merge, grid[-1] // merge, merge).transpose(2, 3).flatten()
        for grid in grids
    )


def rows_to_windows(sizes: Iterable[Shape], side: int) -> tuple[Tensor, list[int]]:
    """`[N]`: for each patch, window by window, its place row by row; and how many patches there are in each window.

    Windows are `side x side`, from the first row and column on, narrower at the right and lower edge, and each in one frame. Those with
    most patches come first, of whichever item, so that attention takes all of one length at once.
    """
    groups: list[tuple[int, Tensor]] = []
    first = 0
    for size in sizes:
        item = torch.arange(first, first + math.prod(size)).view(size)
        groups += windows_of(item, side)
        first += item.numel()
    groups.sort(key=lambda group: -group[0])
    return torch.cat([places for _, places in groups]), [length for length, places in groups for _ in range(len(places) // length)]


def windows_of(item: Tensor, side: int) -> Iterator[tuple[int, Tensor]]:
    """How long windows of one shape are, and the patches of all of them: whole ones, those at either edge, those in the corner."""
    frames, rows, columns = item.shape
    for band in item.split([rows - rows % side, rows % side], dim=1):  # type: ignore[no-untyped-call]
        for part in band.split([columns - columns % side, columns % side], dim=2):
            if part.numel():
                height, width = min(side, part.shape[1]), min(side, part.shape[2])
                cut = part.reshape(frames, part.shape[1] // height, height, part.shape[2] // width, width)
                yield height * width, cut.transpose(2, 3).flatten()


class Reorder(torch.autograd.Function):
    """Rows in another order, none left out and none twice. So its gradient is moved, where that of an index would be added up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return rows[places]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return torch.empty_like(gradient).index_copy_(0, places, gradient), None


def reorder(rows: Tensor, places: Tensor) -> Tensor:
    """`rows[places]`, for places that name every row once."""
    reordered: Tensor = Reorder.apply(rows, places.to(rows.device, non_blocking=True))  # type: ignore[no-untyped-call]
    return reordered
