"""Which of several sources each place in a run's sequence of samples takes from: shares that are kept, not drawn.

Two sources alternate as evenly as whole numbers can: before place p, the first one has had its share of p, rounded. More than two are a
tree of such pairs, the lightest deepest. So a place is found without those before it, and no source is ever two samples away from its
share: at a pair it is half a sample, of which only a part comes down to the pairs below.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Mixture", "shares_of"]


def shares_of(weights: Sequence[float]) -> tuple[Fraction, ...]:
    """The weights in proportion, as exact as they are written: 0.7 is seven tenths."""
    exact = [Fraction(str(weight)) for weight in weights]
    return tuple(weight / sum(exact) for weight in exact)


@dataclass(frozen=True)
class Pair:
    """Two sources, or pairs of them."""

    share: Fraction
    """Of the first."""
    first: Pair | int
    second: Pair | int

    def before(self, place: int) -> int:
        """How many of the first `place` places are the first one's: the share of them, rounded."""
        return (2 * self.share.numerator * place + self.share.denominator) // (2 * self.share.denominator)


class Mixture:
    """Sources, by number, in proportion to their weights."""

    def __init__(self, weights: Sequence[float]) -> None:
        heap: list[tuple[Fraction, int, Pair | int]] = [(share, number, number) for number, share in enumerate(shares_of(weights))]
        heapq.heapify(heap)
        for number in range(len(weights), 2 * len(weights) - 1):  # breaks ties
            (light, _, first), (heavy, _, second) = heapq.heappop(heap), heapq.heappop(heap)
            heapq.heappush(heap, (light + heavy, number, Pair(light / (light + heavy), first, second)))
        self._root = heap[0][2]

    def __getitem__(self, place: int) -> tuple[int, int]:
        """The source that a place takes from, and how many places before it did."""
        node = self._root
        while isinstance(node, Pair):
            before = node.before(place)
            is_first = node.before(place + 1) > before
            node, place = (node.first, before) if is_first else (node.second, place - before)
        return node, place
