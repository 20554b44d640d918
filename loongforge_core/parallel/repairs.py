"""Errors of a Megatron-Core version that a GPU has too, and their repair.

`cpu.py` applies this table whenever it prepares Megatron, with and without an accelerator. A repair leaves a version
without the error as it is, so that no version number is asked here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["REPAIRS", "Replacement"]


@dataclass(frozen=True)
class Replacement:
    """One name of a module or class, and what takes its place."""

    where: str
    """The module or class that holds the name."""
    name: str
    make: Callable[[Any], Any]
    """From what the name meant (None where it was missing) to what it shall mean."""
    reason: str
    until: str
    """What would make this row unnecessary."""


def reduce_what_is_returned(reduce: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(reduce)
    def reduce_contiguous(input_: Any, group: Any) -> Any:
        return reduce(input_.contiguous() if group.size() > 1 else input_, group)

    return reduce_contiguous


REPAIRS: tuple[Replacement, ...] = (
    Replacement(
        "megatron.core.tensor_parallel.mappings",
        "_reduce",
        reduce_what_is_returned,
        "0.16.1 all-reduces a contiguous copy and returns the original: a transposed gradient is never summed",
        "0.16.1 is no longer supported; 0.19 returns the copy",
    ),
)
