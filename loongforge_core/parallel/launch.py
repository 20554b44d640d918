"""Processes that talk to each other: this one alone, or ranks forked for a test or for `--nproc`.

Ranks are forked by a server process that has loaded Megatron and, once, the module of the function to run; so eight of them
start in well under a second, and each starts clean. The server ends with the process that asked for it.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import importlib
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import distributed

from loongforge_core.errors import LoongForgeError
from loongforge_core.parallel.cpu import prepare_megatron

__all__ = ["RankError", "initialise_process", "run_ranks", "single_process"]

prepare_megatron()


class RankError(LoongForgeError):
    """A rank failed. The message holds its own traceback; the cause is its exception, where that can be pickled."""


# ---- one process ----------------------------------------------------------------------------------------------------


def initialise_process(*, rank: int = 0, world_size: int = 1, store: Any = None) -> None:
    """Joins the default process group without environment variables or a fixed port; a world of one needs no store."""
    accelerated = torch.cuda.is_available()
    if accelerated:
        torch.cuda.set_device(rank % torch.cuda.device_count())
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


@dataclass(frozen=True)
class Answer:
    """What a rank sends: its result, or the exception if it can be pickled, and the traceback of a failure."""

    rank: int
    pickled: bytes
    traceback: str = ""


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
    for answer in answers:
        if answer.traceback:
            cause = pickle.loads(answer.pickled)
            raise RankError(f"rank {answer.rank} of {world_size} failed\n{answer.traceback}") from cause
    return [pickle.loads(answer.pickled) for answer in answers]


@functools.cache
def fork_server() -> Connection:
    """Starts the server. It is in a session of its own: an interrupt reaches it through its closed connection only.

    The connection is state of this module, against the house style: a server takes seconds to load Megatron, and it pays
    only where everyone in the process shares it. Nothing else is kept: no job leaves a trace in the server but the
    modules that it loaded, and a broken conversation drops it (`stop_server`), so that nobody can tell how old it is.
    """
    ours, theirs = Pipe()
    start = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs.fileno()})"
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


# ---- in the server --------------------------------------------------------------------------------------------------

NOTHING = pickle.dumps(None)
LOADED_FOR_ALL = (
    "megatron.core.dist_checkpointing",
    "megatron.core.models.gpt.gpt_layer_specs",
    "megatron.core.optimizer",
    "megatron.core.pipeline_parallel",
)


def serve(connection_number: int) -> None:
    requests = Connection(connection_number)
    for name in LOADED_FOR_ALL:
        importlib.import_module(name)
    while True:
        try:
            job: Job = requests.recv()
        except EOFError:
            return
        try:
            module = load_module(job)
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
    """Answers of all ranks, or of those that failed first."""
    deadline = None if job.timeout_s is None else time.monotonic() + job.timeout_s
    with TemporaryDirectory(prefix="loongforge-ranks-") as folder:
        running: dict[Connection, int] = {}
        processes: list[int] = []
        try:
            for rank in range(job.world_size):
                ours, theirs = Pipe(duplex=False)
                if not (process := os.fork()):
                    run_rank(job, module, rank, Path(folder), theirs)
                theirs.close()
                running[ours] = rank
                processes.append(process)
            answers: list[Answer] = []
            while running:
                ready = wait([*running, requests], None if deadline is None else max(0, deadline - time.monotonic()))
                if requests in ready:  # closed: nobody waits for the answers any more
                    raise SystemExit
                if not ready:
                    return still_running(Path(folder), {rank: processes[rank] for rank in running.values()})
                arrived = {running.pop(pipe): receive(pipe) for pipe in ready if isinstance(pipe, Connection)}
                # The dead first: when one dies, the others' connections to it break.
                for rank, answer in sorted(arrived.items(), key=lambda item: item[1] is not None):
                    if answer is None:
                        status = os.waitstatus_to_exitcode(os.waitpid(processes[rank], 0)[1])
                        return [Answer(rank, NOTHING, f"its process ended with status {status}")]
                    if answer.traceback:
                        return [answer]
                    answers.append(answer)
            return sorted(answers, key=lambda answer: answer.rank)
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process, 0)


def receive(pipe: Connection) -> Answer | None:
    """None when the rank died."""
    try:
        answer: Answer = pipe.recv()
    except EOFError:
        return None
    return answer


def still_running(folder: Path, processes: dict[int, int]) -> list[Answer]:
    """Where each rank is that has not finished in time, as `faulthandler` writes it on a signal."""
    for process in processes.values():
        os.kill(process, signal.SIGUSR1)
    time.sleep(0.5)
    where = "\n".join(f"rank {rank}:\n{(folder / f'stack-{rank}').read_text()}" for rank in sorted(processes))
    return [Answer(min(processes), NOTHING, f"not finished in time: ranks {sorted(processes)}\n{where}")]


def run_rank(job: Job, module: ModuleType, rank: int, folder: Path, answers: Connection) -> NoReturn:
    try:
        os.setpgid(0, 0)  # so that what it starts ends with it
        stack = (folder / f"stack-{rank}").open("w")
        faulthandler.register(signal.SIGUSR1, file=stack)
        torch.set_num_threads(1)
        store = distributed.FileStore(str(folder / "store"), job.world_size)  # type: ignore[attr-defined]
        initialise_process(rank=rank, world_size=job.world_size, store=store)
        function = functools.reduce(getattr, job.function.split("."), module)
        answer = Answer(rank, pickle.dumps(function(*pickle.loads(job.arguments))))  # type: ignore[operator]
    except BaseException as error:
        answer = failure(rank, error)
    sys.stdout.flush()
    sys.stderr.flush()
    answers.send(answer)
    while True:  # the server ends all ranks together: one that left early would break the others' connections
        signal.pause()


def failure(rank: int, error: BaseException) -> Answer:
    text = "".join(traceback.format_exception(error))
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:
        pickled = NOTHING
    return Answer(rank, pickled, text)
