"""The processes that run a command: this one, some forked from it, or those of a launcher. Rank 0 speaks for all.

A rank that fails takes the others with it. A user's error is one message, whichever rank met it; of any other, the traceback of the rank
that failed first is the last thing to be read, and not what its end did to the others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, NoReturn

import torch
from torch import distributed

from loongforge_core.cli.launched import Place
from loongforge_core.cli.report import message_of
from loongforge_core.cli.run import physical_cores
from loongforge_core.config.composition import Composition
from loongforge_core.errors import InputError, LoongForgeError
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import RankError, fork_here, initialise_process, meet, single_process
from loongforge_core.registry.registry import Registry

__all__ = ["Job", "alone", "forked", "joined"]

Work = Callable[[], int]
"""A command on this rank; its exit status."""

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
COMPARED = ("loongforge_core", "megatron-core", "torch")
"""Distributions that all ranks must have in the same version, beside the plugins."""


def alone(work: Work, composition: Composition) -> int:
    """As the only process, on as many threads as there are cores, where the user has not said how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(physical_cores())
    with quiet(), single_process(seed=composition.run.train.seed):
        return work()


def forked(work: Work, composition: Composition, number: int) -> int:
    """On so many ranks forked from this process, which waits for them."""

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        return max(fork_here(partial(in_groups, work, composition), number))
    except RankError as error:
        if isinstance(error.__cause__, LoongForgeError):
            raise error.__cause__ from RankError(str(error))
        raise


def in_groups(work: Work, composition: Composition) -> int:
    """On one of several ranks that have joined the default process group."""
    if distributed.get_rank():
        be_silent()
    with quiet():
        initialise_groups(composition.run.parallel, seed=composition.run.train.seed)
        status = work()
        distributed.barrier()  # none leaves while another one still needs it
    return status


def be_silent() -> None:
    """What this rank has to say, rank 0 says too. Compiled code, where it fails, still writes to the terminal."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (to the end)
    logging.disable(logging.WARNING)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="megatron")  # nothing that a user could do anything about
        yield


# ---- a launcher's processes


@dataclass(frozen=True)
class Job:
    """The ranks that a launcher has started, as one of them sees them."""

    place: Place
    store: Any
    """What all can read and write (`parallel.launch.meet`)."""

    def run(self, work: Work, composition: Composition) -> int:
        place = self.place
        store = distributed.PrefixStore("default", self.store)  # type: ignore[attr-defined]
        initialise_process(rank=place.rank, world_size=place.world_size, store=store, local_rank=place.local_rank)
        status = in_groups(work, composition)
        distributed.destroy_process_group()
        return status

    def require_same_plugins(self, registry: Registry) -> None:
        """Raises InputError where this rank has other plugins, or other versions of what decides the numbers, than rank 0."""
        ours = [*(f"{name} {version(name)}" for name in COMPARED), *registry.fingerprint().splitlines()]
        if self.place.rank == 0:
            self.store.set("plugins", "\n".join([socket.gethostname(), *ours]))
            return
        host, *theirs = self.store.get("plugins").decode().splitlines()
        differing = [f"  only rank 0 on {host}: {line}" for line in theirs if line not in ours]
        differing += [f"  only rank {self.place.rank} on {socket.gethostname()}: {line}" for line in ours if line not in theirs]
        if differing:
            raise InputError("\n".join(["ranks have different plugins or versions; install the same ones everywhere:", *differing]))


@contextlib.contextmanager
def joined(place: Place, *, debug: bool) -> Iterator[Job]:
    """Among the ranks of a launcher. An exception within ends this process: hard, so that nothing that others wait for holds it up."""
    job = Job(place, meet(rank=place.rank, world_size=place.world_size, address=place.address, port=place.port))
    try:
        yield job
    except BaseException as error:
        end(job, error, debug=debug)


PATIENCE_S = {"rank 0": 0.0, "user": 1.0, "connection": 3.0}
"""How long a rank lets others speak first, who may know better or say the same: of a user's error, rank 0; of a broken connection, the
rank whose end broke it."""


def end(job: Job, error: BaseException, *, debug: bool) -> NoReturn:
    """Tells what happened, if nobody has yet, and ends this process."""
    rank, world_size = job.place.rank, job.place.world_size
    status = exit_status(error)
    connection = is_of_connection(error)
    patience = PATIENCE_S["connection" if connection else "rank 0" if rank == 0 or not isinstance(error, LoongForgeError) else "user"]
    try:
        speaks = is_first_to_speak(job.store, patience)
    except (distributed.DistError, RuntimeError):  # rank 0, which keeps the store, is no more, and has said why
        speaks = not connection
    if speaks:
        who = "" if rank == 0 else f"rank {rank} of {world_size} on {socket.gethostname()}: "
        print(f"{who}{told(error, debug=debug)}", file=sys.__stderr__, flush=True)
    if rank == 0 and isinstance(error, LoongForgeError):
        let_others_end(job.store, world_size)
    sys.stdout.flush()
    os._exit(status)


def exit_status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return error.exit_status if isinstance(error, LoongForgeError) else 1


def told(error: BaseException, *, debug: bool) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, LoongForgeError):
        return message_of(error, debug=debug)
    why = "lost its connection to another rank; what that one or the launcher says is the reason" if is_of_connection(error) else "failed"
    return f"{why}\n{''.join(traceback.format_exception(error)).rstrip()}"


def is_of_connection(error: BaseException) -> bool:
    """Whether it says no more than that another rank has gone: nccl's own class, gloo's by the file that it names."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def is_first_to_speak(store: Any, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and not store.check(["ended"]):
        time.sleep(0.05)
    number: int = store.add("ended", 1)
    return number == 1


def let_others_end(store: Any, world_size: int, *, timeout_s: float = 3.0) -> None:
    """Those that met the same error: without rank 0's store they would not know that all is said."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and store.add("ended", 0) < world_size:
        time.sleep(0.05)
