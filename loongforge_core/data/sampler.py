"""Which samples make up a step: a pure function of seed, number of samples and global batch size.

The samples of a run form one endless sequence: epoch after epoch, each a permutation of the data set drawn from (seed, epoch). Step k takes
places `k * global_batch_size` and following; a batch that an epoch cannot fill goes on into the next. So nothing depends on the layout
or the micro-batch size, and a resumed run needs no more than its step number (I1, I4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

__all__ = ["Place", "Sampler", "micro_batches"]

T = TypeVar("T")

# First word of each random stream's seed, so that streams of one run are independent.
_ORDER, _AUGMENTATION = 0, 1


@dataclass(frozen=True)
class Place:
    """One place in the run's sequence of samples."""

    position: int
    """Counted from the beginning of the run."""
    index: int
    """The sample that stands there, a number in the data set."""


class Sampler:
    """The order of samples of a run."""

    def __init__(self, *, num_samples: int, global_batch_size: int, seed: int, shuffle: bool) -> None:
        self.num_samples = num_samples
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._orders: dict[int, np.ndarray] = {}

    def step(self, step: int) -> list[Place]:
        """The global batch of a step; the first step is 0."""
        first = step * self.global_batch_size
        return [Place(position, self._index(position)) for position in range(first, first + self.global_batch_size)]

    def share(self, step: int, *, rank: int = 0, size: int = 1) -> list[Place]:
        """What one of `size` data-parallel ranks takes of a step: consecutive places, the same number for every rank."""
        if self.global_batch_size % size:
            raise ValueError(f"global batch size {self.global_batch_size} is not a multiple of {size} data-parallel ranks")
        per_rank = self.global_batch_size // size
        return self.step(step)[rank * per_rank : (rank + 1) * per_rank]

    def random(self, place: Place) -> np.random.Generator:
        """Random numbers for distorting the sample at a place: the same in every layout, and after a resume."""
        return np.random.default_rng([_AUGMENTATION, self.seed, place.position])

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, self.num_samples)
        return int(self._order(epoch)[place]) if self.shuffle else place

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {kept: order for kept, order in self._orders.items() if kept == epoch - 1}
            self._orders[epoch] = np.random.default_rng([_ORDER, self.seed, epoch]).permutation(self.num_samples)
        return self._orders[epoch]


def micro_batches(samples: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The samples in micro-batches of `size`. Raises ValueError when they do not come out even."""
    if len(samples) % size:
        raise ValueError(f"{len(samples)} samples of a rank's step are not a multiple of micro-batch size {size}")
    return (samples[start : start + size] for start in range(0, len(samples), size))
