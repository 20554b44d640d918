"""The order of samples in an epoch: a permutation of `size` samples that a few words, such as seed and epoch, decide."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Protocol

import numpy as np

__all__ = ["Order", "epoch_order"]

DRAWN = 2**22
"""Up to so many samples a permutation is drawn whole, four bytes a sample; beyond, each place is computed when it is asked for."""
ROUNDS = 8
WORD = 2**64 - 1


class Order(Protocol):
    """`order[place]` is the sample that stands there."""

    def __getitem__(self, place: int, /) -> int: ...


def epoch_order(size: int, words: Sequence[int]) -> Order:
    if size > DRAWN:
        return ComputedOrder(size, words)
    order = np.arange(size, dtype=np.int32)
    np.random.default_rng(words).shuffle(order)
    return order


class ComputedOrder:
    """A permutation that is nowhere held: a Feistel network on rows and columns of a rectangle (Black and Rogaway, 2002).

    Each round moves a row's number by what its column says, then the column by what the row says, so that it can be undone and is a
    permutation of the rectangle, whatever it is said. The few places of the rectangle that are no sample are moved on until they are one.
    """

    def __init__(self, size: int, words: Sequence[int]) -> None:
        self.size = size
        self.columns = isqrt(size - 1) + 1
        self.rows = -(-size // self.columns)
        self.keys = [int(key) for key in np.random.default_rng(words).integers(2**64, size=2 * ROUNDS, dtype=np.uint64)]

    def __getitem__(self, place: int, /) -> int:
        while True:
            row, column = divmod(place, self.columns)
            for key in range(0, 2 * ROUNDS, 2):
                row = (row + mixed(column + self.keys[key])) % self.rows
                column = (column + mixed(row + self.keys[key + 1])) % self.columns
            place = row * self.columns + column
            if place < self.size:
                return place


def mixed(word: int) -> int:
    """Every bit of the result depends on every bit of the word (the last step of SplitMix64; Steele, Lea and Flood, 2014)."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)
