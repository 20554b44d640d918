"""Which samples make up a step: a pure function of seed, numbers of samples and global batch size.

The samples of a run form one endless sequence. Step k takes places `k * global_batch_size` and following, so that nothing depends on the
layout or the micro-batch size, and a resumed run needs no more than its step number (I1, I4). Each source of samples, of which most runs
have one, is gone through epoch after epoch, each a permutation that (seed, epoch) decides; a batch that an epoch cannot fill goes on into
the next. Of several sources, each place takes the next sample of the one whose turn it is (`mixture.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np

from loongforge_core.data.mixture import Mixture
from loongforge_core.data.order import Order, epoch_order

__all__ = ["Place", "Sampler", "micro_batches"]

T = TypeVar("T")

# First word of each random stream's seed, so that streams of one run are independent.
_ORDER, _AUGMENTATION, _SUBSTITUTE = 0, 1, 2


@dataclass(frozen=True)
class Place:
    """One place in the run's sequence of samples."""

    position: int
    """Counted from the beginning of the run."""
    index: int
    """The sample that stands there, a number in the data set: sources follow one another."""


class Sampler:
    """The order of samples of a run."""

    def __init__(
        self, *, sizes: Sequence[int], weights: Sequence[float] = (1.0,), global_batch_size: int, seed: int, shuffle: bool
    ) -> None:
        """`sizes` are the numbers of samples of each source, `weights` their shares of the run in proportion."""
        self.sizes = tuple(sizes)
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._starts = [0, *accumulate(sizes)]
        self._mixture = Mixture(weights)
        self._orders: dict[tuple[int, int], Order] = {}

    def step(self, step: int) -> list[Place]:
        """The global batch of a step; the first step is 0."""
        return self.share(step)

    def share(self, step: int, *, rank: int = 0, size: int = 1) -> list[Place]:
        """What one of `size` data-parallel ranks takes of a step: consecutive places, the same number for every rank."""
        if self.global_batch_size % size:
            raise ValueError(f"global batch size {self.global_batch_size} is not a multiple of {size} data-parallel ranks")
        per_rank = self.global_batch_size // size
        first = step * self.global_batch_size + rank * per_rank
        return [Place(position, self._index(position)) for position in range(first, first + per_rank)]

    def substitute(self, place: Place, attempt: int) -> Place:
        """The sample that is tried in the place of one that cannot be used: any of the same source, another one at each attempt."""
        source, _ = self._mixture[place.position]
        random = np.random.default_rng([_SUBSTITUTE, self.seed, place.position, attempt])
        return Place(place.position, self._starts[source] + int(random.integers(self.sizes[source])))

    def random(self, place: Place) -> np.random.Generator:
        """Random numbers for distorting the sample at a place: the same in every layout, and after a resume."""
        return np.random.default_rng([_AUGMENTATION, self.seed, place.position])

    def _index(self, position: int) -> int:
        source, turn = self._mixture[position]
        epoch, place = divmod(turn, self.sizes[source])
        return self._starts[source] + (int(self._order(source, epoch)[place]) if self.shuffle else place)

    def _order(self, source: int, epoch: int) -> Order:
        if (source, epoch) not in self._orders:
            self._orders = {kept: order for kept, order in self._orders.items() if kept[0] != source or kept[1] == epoch - 1}
            self._orders[source, epoch] = epoch_order(self.sizes[source], [_ORDER, self.seed, epoch, *([source] if source else [])])
        return self._orders[source, epoch]


def micro_batches(samples: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The samples in micro-batches of `size`. Raises ValueError when they do not come out even."""
    if len(samples) % size:
        raise ValueError(f"{len(samples)} samples of a rank's step are not a multiple of micro-batch size {size}")
    return (samples[start : start + size] for start in range(0, len(samples), size))
