"""Processes that talk to each other: this one alone, ranks forked for a test or for `--nproc`, or one that a launcher has started.

For tests, ranks are forked by a server process that has loaded Megatron and, once, the module of the function to run; so eight of them
start in well under a second, and each starts clean. The server ends with the process that asked for it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from signal import Signals
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import distributed

from loongforge_core.errors import LoongForgeError
from loongforge_core.parallel.cpu import prepare_megatron
from loongforge_core.parallel.forked import Answer, failure, fork_ranks

__all__ = ["RankError", "agreed", "fork_here", "initialise_process", "meet", "run_ranks", "single_process"]

prepare_megatron()

T = TypeVar("T")

MEETING_TIMEOUT = timedelta(minutes=10)
"""How long ranks of a launcher wait for each other at the beginning."""


class RankError(LoongForgeError):
    """A rank failed. The message holds its own traceback; the cause is its exception, where that can be pickled."""


# ---- one process ----------------------------------------------------------------------------------------------------


def initialise_process(*, rank: int = 0, world_size: int = 1, store: Any = None, local_rank: int | None = None) -> None:
    """Joins the default process group without environment variables or a fixed port; a world of one needs no store.

    `local_rank`, which of its machine's ranks this is, picks the accelerator; None: all ranks are on one machine.
    """
    accelerated = torch.cuda.is_available()
    if accelerated:
        torch.cuda.set_device((rank if local_rank is None else local_rank) % torch.cuda.device_count())
    distributed.init_process_group(
        "nccl" if accelerated else "gloo",
        store=distributed.HashStore() if store is None else store,  # type: ignore[attr-defined]
        rank=rank,
        world_size=world_size,
    )


@contextlib.contextmanager
def single_process(*, seed: int = 1) -> Iterator[None]:
    """This process alone, with Megatron's groups of one and its random states; undone at the end."""
    from megatron.core import parallel_state, tensor_parallel

    initialise_process()
    try:
        parallel_state.initialize_model_parallel()
        tensor_parallel.model_parallel_cuda_manual_seed(seed)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        distributed.destroy_process_group()


def agreed(find: Callable[[], T]) -> T:
    """What rank 0 finds, on every rank: the disks of several machines do not show a new file at the same time."""
    found = [find() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(found, src=0)
    return found[0]  # type: ignore[return-value]


# ---- a launcher's processes -------------------------------------------------------------------------------------------


def meet(*, rank: int, world_size: int, address: str, port: int) -> Any:
    """The store that all ranks of a launcher's job share, when all have come.

    Rank 0 keeps it, at its own address, or torchrun does. Raises LoongForgeError where they do not find each other.
    """
    where = f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
    try:
        store, _, _ = next(distributed.rendezvous(where, rank=rank, world_size=world_size, timeout=MEETING_TIMEOUT))  # type: ignore[attr-defined]
    except (distributed.DistError, OSError, RuntimeError, ValueError) as error:
        raise LoongForgeError(f"rank {rank} of {world_size} did not find the others at {address}:{port}: {error}") from error
    return distributed.PrefixStore("loongforge", store)  # type: ignore[attr-defined]


# ---- some processes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A function by name and file, because a test's module cannot be imported by its name."""

    module: str
    file: str | None
    function: str
    arguments: bytes
    world_size: int
    timeout_s: float | None


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float | None = 300) -> list[Any]:
    """Results of `function(*args)` on `world_size` ranks that share a default process group, in the order of ranks.

    `function` is defined at the top of a module; arguments and results are pickled. When a rank raises, dies or, after
    `timeout_s` (None: never), has not finished, all are ended, and `RankError` says what that rank was doing.
    """
    file = getattr(sys.modules[function.__module__], "__file__", None)
    job = Job(function.__module__, file, function.__qualname__, pickle.dumps(args), world_size, timeout_s)
    server = fork_server()
    try:
        server.send(job)
        answers: list[Answer] = server.recv()
    except BaseException:  # an interrupted conversation cannot be continued
        stop_server(server)
        raise
    return results(answers, world_size)


def fork_here(work: Callable[[], T], world_size: int, *, hand_on: Sequence[Signals] = ()) -> list[T]:
    """Results of `work()` on ranks forked from this very process, which must not have more than one thread.

    They share what it has loaded, its terminal and a default process group, and get the signals to `hand_on` that it gets. Raises
    RankError as `run_ranks` does, and SystemExit where the ranks ended by such a signal.
    """
    load_for_all()

    def run(rank: int, folder: Path) -> T:
        join(rank, world_size, folder)
        return work()

    return results(fork_ranks(run, world_size, hand_on=hand_on), world_size)


def join(rank: int, world_size: int, folder: Path) -> None:
    store = distributed.FileStore(str(folder / "store"), world_size)  # type: ignore[attr-defined]
    initialise_process(rank=rank, world_size=world_size, store=store)


def results(answers: Sequence[Answer], world_size: int) -> list[Any]:
    for answer in answers:
        if answer.traceback:
            cause = pickle.loads(answer.pickled)
            raise RankError(f"rank {answer.rank} of {world_size} failed\n{answer.traceback.rstrip()}") from cause
    return [pickle.loads(answer.pickled) for answer in answers]


@functools.cache
def fork_server() -> Connection:
    """Starts the server. It is in a session of its own: an interrupt reaches it through its closed connection only.

    The connection is state of this module, against the house style: a server takes seconds to load Megatron, and it pays
    only where everyone in the process shares it. Nothing else is kept: no job leaves a trace in the server but the
    modules that it loaded, and a broken conversation drops it (`stop_server`), so that nobody can tell how old it is.
    """
    ours, theirs = Pipe()
    # What is loaded stays: looking for garbage in it meanwhile would be a sixth of the time.
    load = f"import gc, sys; gc.disable(); sys.path[:] = {sys.path!r}; from {__name__} import serve"
    start = f"{load}; serve({theirs.fileno()})"
    # Threads do not survive a fork, and neither does CUDA once asked whether it is there: so ask NVML.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    process = subprocess.Popen([sys.executable, "-c", start], pass_fds=[theirs.fileno()], env=environment, start_new_session=True)
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)  # runs first, and ends the server
    return ours


def stop_server(server: Connection) -> None:
    fork_server.cache_clear()
    server.close()


# ---- before ranks are forked ----------------------------------------------------------------------------------------

LOADED_FOR_ALL = (
    "megatron.core.dist_checkpointing",
    "megatron.core.models.gpt.gpt_layer_specs",
    "megatron.core.optimizer",
    "megatron.core.pipeline_parallel",
    "torch._dynamo",  # which the first of torch's optimizers imports: a second and more
)


def load_for_all() -> None:
    """What else every rank would load by itself."""
    for name in LOADED_FOR_ALL:
        importlib.import_module(name)


# ---- in the server --------------------------------------------------------------------------------------------------


def serve(connection_number: int) -> None:
    requests = Connection(connection_number)
    sys.modules.pop("__mp_main__", None)  # multiprocessing's name for this server's own main module
    load_for_all()
    gc.enable()
    while True:
        try:
            job: Job = requests.recv()
        except EOFError:
            return
        try:
            module = load_module(job)
            pickle.loads(job.arguments)  # for the modules that it loads
        except BaseException as error:
            requests.send([failure(0, error)])
            continue
        requests.send(run_job(job, module, requests))


def load_module(job: Job) -> ModuleType:
    """The module of the job's function, under the name that pickled arguments know it by."""
    name = "__mp_main__" if job.module == "__main__" else job.module
    if name not in sys.modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            if job.file is None or (spec := importlib.util.spec_from_file_location(name, job.file)) is None:
                raise
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            assert spec.loader
            spec.loader.exec_module(module)
    sys.modules[job.module] = sys.modules[name]
    return sys.modules[name]


def run_job(job: Job, module: ModuleType, requests: Connection) -> list[Answer]:
    """Answers of all ranks, or of the one that failed first."""

    def work(rank: int, folder: Path) -> Any:
        torch.set_num_threads(1)
        join(rank, job.world_size, folder)
        function: Any = functools.reduce(getattr, job.function.split("."), module)
        return function(*pickle.loads(job.arguments))

    return fork_ranks(work, job.world_size, stop=requests, timeout_s=job.timeout_s)
