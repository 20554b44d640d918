"""Initial weights that do not depend on the layout (I1).

Each tensor is drawn whole, from a generator seeded by its global name, and every rank copies its part. Nothing larger than one tensor is
ever made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loongforge_core.component import Initial, InitialValues
from loongforge_core.errors import PluginError
from loongforge_core.parallel.bookkeeping import Piece, pieces

if TYPE_CHECKING:
    from loongforge_core.layers.interfaces import Component

__all__ = ["initialise"]


def initialise(components: Mapping[str, Component[Any]], *, seed: int, filled: Collection[str] = ()) -> None:
    """Fills every tensor of the components, which are given by slot, but for those whose names, behind their slots', are `filled`."""
    for slot, component in components.items():
        values = component.initial_values()
        drawn: tuple[str, Tensor] = ("", torch.empty(0))
        for piece in pieces(component):
            if f"{slot}.{piece.name}" in filled:
                continue
            if drawn[0] != piece.name:
                rows = component.published_rows(piece.name)
                initial = distribution(values, piece.name, slot)
                drawn = (piece.name, draw(initial, piece, rows, name_seed(seed, f"{slot}.{piece.name}")))
            piece.tensor.copy_(drawn[1][piece.slices])


def distribution(values: InitialValues, name: str, slot: str) -> Initial:
    for pattern, initial in values.patterns.items():
        if fnmatchcase(name, pattern):
            return initial
    raise PluginError(
        f"the component in slot {slot} says nothing of the initial value of {name!r}; its `initial_values` has patterns for "
        f"{', '.join(values.patterns) or 'nothing'}"
    )


def name_seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def draw(initial: Initial, piece: Piece, rows: int | None, seed: int) -> Tensor:
    """The whole tensor in float32; rows that pad a vocabulary are zero and take no random numbers."""
    whole = torch.zeros(piece.shape, device="cpu")
    real = whole if rows is None else whole[:rows]
    generator = torch.Generator().manual_seed(seed)
    if initial.kind == "normal":
        real.normal_(0.0, initial.value, generator=generator)
    elif initial.kind == "uniform":
        real.uniform_(-initial.value, initial.value, generator=generator)
    elif initial.kind == "constant":
        real.fill_(initial.value)
    else:
        assert initial.values is not None, "Initial('given') needs values"
        real.copy_(torch.from_numpy(initial.values(tuple(real.shape))))
    return whole
