"""Fills this rank's slices from a folder. Of a rule that moves rows, only the rows that are needed are read, a few megabytes at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from loongforge_core.parallel.bookkeeping import Piece
from loongforge_core.weights.holding import Holding
from loongforge_core.weights.table import Entry
from loongforge_core.weights.tensor_file import StoredTensor

__all__ = ["fill"]


def fill(entry: Entry, theirs: Sequence[StoredTensor], held: Mapping[str, Holding]) -> None:
    """Fills what is held of the rule's tensors from the stored ones; rows that pad a vocabulary become zero. Converts to our dtype."""
    if not any(name in held for name in entry.ours):
        return
    if entry.rule.moves_rows and all(stored.shape for stored in theirs):
        numbering = Numbering.of(theirs)
        for name, numbers in entry.join(numbering.rows()):
            for piece in held[name].pieces if name in held else ():
                fill_rows(piece, numbers, numbering)
    else:
        for name, whole in entry.join([stored.whole() for stored in theirs]):
            if name in held:
                held[name].fill(whole)


@dataclass(frozen=True)
class Run:
    """Rows that follow each other here and in one stored tensor."""

    stored: StoredTensor
    first: int
    """Of the stored tensor."""
    at: int
    """Its place among ours."""
    count: int


@dataclass(frozen=True)
class Numbering:
    """A number for every row of some stored tensors: what a rule does with these numbers, it does with the rows."""

    theirs: Sequence[StoredTensor]
    starts: tuple[int, ...]

    @staticmethod
    def of(theirs: Sequence[StoredTensor]) -> Numbering:
        # A number is left out behind each tensor, so that no run goes from one to the next.
        return Numbering(theirs, tuple(accumulate((stored.shape[0] + 1 for stored in theirs), initial=0)))

    def rows(self) -> list[Tensor]:
        return [torch.arange(start, start + stored.shape[0]) for stored, start in zip(self.theirs, self.starts, strict=False)]

    def runs(self, numbers: Tensor) -> Iterator[Run]:
        breaks = torch.nonzero(numbers.diff() != 1).flatten() + 1
        for at, stop in pairwise([0, *breaks.tolist(), len(numbers)]):
            number = int(numbers[at])
            which = bisect_right(self.starts, number) - 1
            yield Run(self.theirs[which], number - self.starts[which], at, stop - at)


def fill_rows(piece: Piece, numbers: Tensor, numbering: Numbering) -> None:
    """`numbers` says of every row of the whole tensor where it is stored."""
    tensor, slices = piece.tensor, piece.slices
    if not numbers.dim():  # the whole tensor is one row of theirs
        tensor, slices, numbers = tensor[None], (slice(0, 1), *slices), numbers[None]
    here = numbers[slices[0]]
    for run in numbering.runs(here) if len(here) else ():
        run.stored.copy_rows(run.first, slices[1:], tensor[run.at : run.at + run.count])
    tensor[len(here) :].zero_()
