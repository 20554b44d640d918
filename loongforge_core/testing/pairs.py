"""All pairs of values of different dimensions in few rows, where trying their whole product would take hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

__all__ = ["all_pairs", "all_rows"]

Row = Mapping[str, Any]


def all_rows(dimensions: Mapping[str, Sequence[Any]], is_valid: Callable[[Row], bool]) -> list[Row]:
    """The whole product: every row, a value for each dimension, that is valid."""
    rows = (dict(zip(dimensions, values, strict=True)) for values in product(*dimensions.values()))
    return [row for row in rows if is_valid(row)]


def all_pairs(rows: Sequence[Row], cost: Callable[[Row], float]) -> list[Row]:
    """Rows among those given in which every two values meet that meet in any of them; each time the one that covers most for its cost."""
    bits: dict[tuple[tuple[str, str], tuple[str, str]], int] = {}
    # A row's pairs as the bits of a number: thousands of rows are compared again each time.
    pairs = [sum(1 << bits.setdefault(pair, len(bits)) for pair in pairs_of(row)) for row in rows]
    costs = [cost(row) for row in rows]
    missing = (1 << len(bits)) - 1
    chosen = []
    while missing:
        best = max(range(len(rows)), key=lambda index: (pairs[index] & missing).bit_count() / costs[index])
        chosen.append(rows[best])
        missing &= ~pairs[best]
    return chosen


def pairs_of(row: Row) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    return combinations([(name, str(value)) for name, value in row.items()], 2)
