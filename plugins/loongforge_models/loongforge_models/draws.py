"""Random choices that are the same on any machine and with any version of Python."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Draws"]


class Draws:
    """Draws from `random.random()` alone, whose sequence no version of Python changes."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def below(self, count: int) -> int:
        return int(self.random() * count)

    def shuffled(self, things: Sequence[Any]) -> list[Any]:
        return sorted(things, key=lambda _: self.random())

    def cycle(self, things: Sequence[Any], count: int) -> Iterator[Any]:
        """`count` of the things, in a new order each time round."""
        order: list[Any] = []
        for _ in range(count):
            order = order or self.shuffled(things)
            yield order.pop()
