"""Errors of a Megatron-Core version that a GPU has too, and their repair.

`cpu.py` applies the table whenever it prepares Megatron, with and without an accelerator. A repair leaves a version
without the error as it is, so that no version number is asked here. What would be wrong at other times is a context
manager, for the caller to hold open: `writing_in_this_process`.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing.dummy
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

__all__ = ["REPAIRS", "Replacement", "writing_in_this_process"]


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


@contextlib.contextmanager
def writing_in_this_process() -> Iterator[None]:
    """Around a synchronous `dist_checkpointing.save`: its writers are threads. Asynchronous saving needs the processes missing here.

    Megatron 0.16 forks its writers, and both versions hand results over in a server process, also where they write synchronously.
    Of a run that is killed while it saves, those live on, waiting for it for ever; the server takes seconds to start and needs a `__main__`
    that can be imported. Threads and a queue do as well where nobody goes on training meanwhile.

    Unnecessary when a synchronous save of Megatron's starts no process: 0.19 writes with threads, but keeps the server.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    before = filesystem_async.mp, filesystem_async._results_queue
    filesystem_async.mp = SimpleNamespace(get_context=lambda _: multiprocessing.dummy)
    filesystem_async._results_queue = queue.Queue()
    try:
        yield
    finally:
        filesystem_async.mp, filesystem_async._results_queue = before
