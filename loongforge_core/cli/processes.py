"""The processes that run a command: this one, some forked from it, or those of a launcher. Rank 0 speaks for all.

A rank that fails takes the others with it. A user's error is one message, whichever rank met it; of any other, the traceback of the rank
that failed first is the last thing to be read, and not what its end did to the others.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

import torch
from torch import distributed

from loongforge_core.cli.launched import Place
from loongforge_core.cli.report import message_of
from loongforge_core.cli.run import physical_cores
from loongforge_core.config.composition import Composition
from loongforge_core.errors import InputError, LoongForgeError
from loongforge_core.parallel.forked import NOTICES
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import RankError, fork_here, initialise_process, meet, single_process
from loongforge_core.registry.registry import Registry

__all__ = ["Job", "alone", "forked", "joined"]

Work = Callable[[], int]
"""A command on this rank; its exit status."""

INTERRUPTED = 128 + signal.SIGINT
COMPARED = ("loongforge_core", "megatron-core", "torch")
"""Distributions that all ranks must have in the same version, beside the plugins."""


def alone(work: Work, composition: Composition) -> int:
    """As the only process, on as many threads as there are cores, where the user has not said how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(physical_cores())
    with quiet(), single_process(seed=composition.run.train.seed):
        return work()


def forked(work: Work, composition: Composition, number: int) -> int:
    """On so many ranks forked from this process, which waits for them. They have its plugins, so there is nothing to compare."""

    def rank() -> int:
        if distributed.get_rank():
            be_silent()
        return in_groups(work, composition)

    try:
        return max(fork_here(rank, number, hand_on=NOTICES))
    except BaseException as error:
        if sys.stderr.isatty():  # where rank 0 has left its bar
            print(file=sys.stderr)
        if isinstance(error, RankError) and isinstance(error.__cause__, LoongForgeError):
            raise error.__cause__ from RankError(str(error))
        raise


def in_groups(work: Work, composition: Composition) -> int:
    """On one of several ranks that have joined the default process group."""
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
    """Without what Megatron says of its own calls and of how our layers and buffers are made: no user could do anything about it."""
    for module in ("transformer.transformer_layer", "distributed.distributed_data_parallel"):
        logging.getLogger(f"megatron.core.{module}").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="megatron")
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
        if place.rank == 0:
            self.store.set("checked", "")
        store = distributed.PrefixStore("default", self.store)  # type: ignore[attr-defined]
        initialise_process(rank=place.rank, world_size=place.world_size, store=store, local_rank=place.local_rank)
        status = in_groups(work, composition)
        distributed.destroy_process_group()
        return status

    def require_same_plugins(self, registry: Registry) -> None:
        """Raises InputError, on every rank, where one has other plugins than rank 0, or other versions of what decides the numbers."""
        rank, world_size = self.place.rank, self.place.world_size
        installed = [*(f"{name} {version(name)}" for name in COMPARED), *registry.fingerprint().splitlines()]
        self.store.set(f"installed on {rank}", json.dumps([socket.gethostname(), installed]))
        if rank == 0:
            everywhere = [json.loads(self.store.get(f"installed on {other}")) for other in range(world_size)]
            self.store.set("differences", "\n".join(differences(everywhere)))
        if found := self.store.get("differences").decode():
            raise InputError(f"ranks have different plugins or versions; install, or leave out, the same ones everywhere:\n{found}")


def differences(everywhere: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A line for each host and each way to differ from rank 0, of every rank's host and what is installed there."""
    first, expected = everywhere[0]
    ranks: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for rank, (host, installed) in enumerate(everywhere):
        if set(installed) != set(expected):
            ranks.setdefault((host, tuple(installed)), []).append(str(rank))
    lines = []
    for (host, installed), numbers in ranks.items():
        extra = ", ".join(line for line in installed if line not in expected)
        missing = ", ".join(line for line in expected if line not in installed)
        lines.append(f"  rank {', '.join(numbers)} on {host}: {extra or 'nothing'}; rank 0 on {first}: {missing or 'nothing'}")
    return lines


@contextlib.contextmanager
def joined(place: Place, *, debug: bool) -> Iterator[Job]:
    """Among the ranks of a launcher. An exception within ends this process: hard, so that nothing that others wait for holds it up."""
    job = Job(place, meet(rank=place.rank, world_size=place.world_size, address=place.address, port=place.port))
    if place.rank:
        be_silent()
    try:
        yield job
    except BaseException as error:
        end(job, error, debug=debug)


PATIENCE_S = {"user": 1.0, "connection": 3.0}
"""How long a rank lets others speak first, who may say the same or know better: of a user's error, rank 0; of a broken connection, the
rank whose end broke it."""
CHECK_S = 60.0
"""How long other ranks that find the composition wrong wait for rank 0 to find it too."""


def end(job: Job, error: BaseException, *, debug: bool) -> NoReturn:
    """Tells what happened, if nobody has yet, and ends this process."""
    rank, world_size = job.place.rank, job.place.world_size
    connection, users = is_of_connection(error), isinstance(error, LoongForgeError)
    patience = PATIENCE_S["connection"] if connection else PATIENCE_S["user"] if users and rank else 0.0
    try:
        speaks = is_first_to_speak(job.store, patience)
    except (distributed.DistError, RuntimeError):  # rank 0, which keeps the store, is no more, and has said why
        speaks = not connection
    if speaks:
        speaks_for_all = rank == 0 and isinstance(error, LoongForgeError | KeyboardInterrupt)
        who = "" if speaks_for_all else f"rank {rank} of {world_size} on {socket.gethostname()}: "
        print(f"{who}{told(error, debug=debug)}", file=sys.__stderr__, flush=True)
    if rank == 0 and users:
        let_others_end(job.store, world_size)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(exit_status(error))


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
    start = time.monotonic()
    while patience and not store.check(["ended"]):
        waited = time.monotonic() - start
        if waited > patience and (waited > CHECK_S or store.check(["checked"])):
            break
        time.sleep(0.05)
    number: int = store.add("ended", 1)
    return number == 1


def let_others_end(store: Any, world_size: int, *, timeout_s: float = 3.0) -> None:
    """Those that met the same error: without rank 0's store they would not know that all is said."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and store.add("ended", 0) < world_size:
        time.sleep(0.05)
