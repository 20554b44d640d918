"""A notice that the run is to end: SIGTERM, or SIGUSR1, by which Slurm says that the time limit is near (`--signal=USR1@120`).

Either has the same effect: the step in flight is finished, a checkpoint is saved, and the run ends with 128 + the signal's number, as a
shell has it of a process that a signal ended: nobody takes it for a finished run, and a job script can tell a notice from a failure and put
itself into the queue again. (Lightning and submitit too save and end on SIGUSR1; Megatron's `--exit-signal-handler` does on SIGTERM.) The
same command goes on from there.

It is enough that one rank gets it, and the ranks may get it in different steps: after each step, all agree. They do so on their CPUs, in a
group of their own: no rank waits for its accelerator, which still has the optimizer's work to do then. While a checkpoint is saved a notice
is taken too, and the run ends behind it. An evaluation is broken off between two batches, and made again when the run goes on. Before the
first step and after the last checkpoint there is nothing to be saved: there, the signals do what they do to any program.

Launchers often say it twice, to the process and to its group. What comes within `AGAIN_S` of a signal's first time is the same notice; from
then on, the same signal ends the process at once. So does Ctrl-C (SIGINT) at any time. torchrun hands on SIGTERM, not SIGUSR1, and
kills its workers after 30 seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import distributed

from loongforge_core.parallel.forked import AGAIN_S, NOTICES

__all__ = ["Notice", "Noticed", "noticing"]


class Noticed(Exception):
    """There is a notice, on which all ranks agree."""


class Notice:
    """What this rank has been sent, and what all ranks make of it."""

    def __init__(self, group: Any) -> None:
        self.group = group
        """All ranks, on their CPUs; None where there is one."""
        self.first: dict[int, float] = {}
        """When each signal came for the first time."""
        self.agreed: signal.Signals | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. It does no more than remember, for it may come between any two instructions."""
        now = time.monotonic()
        if now - self.first.setdefault(number, now) > AGAIN_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def agree(self) -> signal.Signals | None:
        """The signal that ends the run, if any rank has got one. All ranks call it at the same place, and have the same answer."""
        number = max(self.first, default=0)
        if self.group is not None:
            most = torch.tensor(number)
            distributed.all_reduce(most, distributed.ReduceOp.MAX, group=self.group)
            number = int(most)
        self.agreed = signal.Signals(number) if number else None
        return self.agreed

    def require_none(self) -> None:
        """Raises Noticed where the run is to end. All ranks call it at the same place."""
        if self.agree():
            raise Noticed


@contextlib.contextmanager
def noticing() -> Iterator[Notice]:
    """Within it, the signals are notices; what came too late to be agreed on has its usual effect at the end. All ranks enter it together.

    Python hears signals in its main thread only: where a program trains in another one, they do what the program has them do.
    """
    notice = Notice(distributed.new_group(backend="gloo") if distributed.get_world_size() > 1 else None)
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = {number: signal.signal(number, notice.note) for number in NOTICES}
    for number in NOTICES:
        signal.siginterrupt(number, False)  # compiled code that is writing then goes on
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if notice.group is not None:
        distributed.destroy_process_group(notice.group)
    if notice.first and notice.agreed is None:
        os.kill(os.getpid(), max(notice.first))
