"""Times two ways of doing one thing in turn, so that a machine that slows down slows both; and shows where the time of one goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Pairs", "profile", "time_in_turn"]


@dataclass(frozen=True)
class Pairs:
    """Seconds of both, run by run."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio_of_medians(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def ratio_of_minima(self) -> float:
        return min(self.ours) / min(self.theirs)

    def __str__(self) -> str:
        return (
            f"{self.ratio_of_medians:5.2f} (minima {self.ratio_of_minima:4.2f})   "
            f"{1e3 * statistics.median(self.ours):8.1f} ms : {1e3 * statistics.median(self.theirs):8.1f} ms"
        )


def time_in_turn(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    runs: int,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Pairs:
    """`clock=time.process_time` counts this process's own time only: what one thread computes, whoever else wants the cores."""
    for _ in range(warm_up):
        ours()
        theirs()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for which, work in enumerate((ours, theirs)):
            start = clock()
            work()
            seconds[which].append(clock() - start)
    return Pairs(tuple(seconds[0]), tuple(seconds[1]))


def profile(name: str, work: Callable[[], object]) -> None:
    """Prints the kernels that one run spends most time in."""
    activities, order = [torch.profiler.ProfilerActivity.CPU], "self_cpu_time_total"
    if torch.cuda.is_available():
        activities, order = [*activities, torch.profiler.ProfilerActivity.CUDA], "self_cuda_time_total"
    with torch.profiler.profile(activities=activities) as profiler:
        work()
    print(name, profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60), sep="\n")
