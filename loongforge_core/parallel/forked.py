"""Ranks forked from a process that has loaded what they need: there in a fraction of a second, watched, and ended together.

They end with the process that forked them, however that ends: each has one end of a pipe that nobody else keeps open.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pickle
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

__all__ = ["AGAIN_S", "NOTICES", "Answer", "failure", "fork_ranks"]

NOTICES = (signal.SIGTERM, signal.SIGUSR1)
"""What a job is told that it is to end by: it may finish what it does. `train/notice.py` says how a run does."""
AGAIN_S = 5.0
"""A signal that is sent again later than this shall end everything at once; earlier, it is the same notice on another way."""

SETTLE_S = 0.5
"""A process that dies breaks the connections of others, and their complaints may come before the news of its death."""
GRACE_S = 2.0
"""Until a process that does not end with the one that forked it is ended without being asked."""


@dataclass(frozen=True)
class Answer:
    """What became of a rank: its result, or the exception if it can be pickled, and the traceback of a failure."""

    rank: int
    pickled: bytes
    traceback: str = ""
    died: bool = False
    """Its process ended without a word; `traceback` says how."""
    ended_by: int = 0
    """The signal that did, if one did."""


@dataclass(frozen=True)
class Forked:
    """A rank that has not answered yet."""

    rank: int
    process: int


NOTHING = pickle.dumps(None)


def fork_ranks(
    work: Callable[[int, Path], Any],
    world_size: int,
    *,
    hand_on: Sequence[signal.Signals] = (),
    stop: Connection | None = None,
    timeout_s: float | None = None,
) -> list[Answer]:
    """Answers of all ranks in their order, or the one of the rank that failed first.

    `work` is called in every rank's own process with the rank and a folder that all share; what it prints is not caught. When this
    returns or raises, all have ended. Signals to `hand_on` go to the ranks: whether these end by them, and how, is their business.
    `stop` becomes readable when nobody waits for the answers any more.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    folder_of_all = TemporaryDirectory(prefix="loongforge-ranks-")
    started: dict[Connection, Forked] = {}
    with folder_of_all as name, lifeline() as line, handing_on(hand_on, started) as handed_on:
        folder = Path(name)
        try:
            for rank in range(world_size):
                ours, theirs = Pipe(duplex=False)
                if not (process := fork()):
                    run_rank(work, rank, folder, theirs, line)
                theirs.close()
                started[ours] = Forked(rank, process)
            answers = collect(started, folder, stop, deadline)
            if answers[0].ended_by in handed_on:
                sys.exit(128 + answers[0].ended_by)
            return answers
        finally:
            end(list(started.values()))


def fork() -> int:
    """`os.fork`. What is there already is nothing for the garbage collection of the new process: parts of it belong to threads that this
    one does not have (a segmentation fault, seen once), and looking at it copies its pages.
    """
    gc.freeze()
    process = os.fork()
    if process:
        gc.unfreeze()
    return process


@contextlib.contextmanager
def handing_on(numbers: Sequence[signal.Signals], started: Mapping[Connection, Forked]) -> Iterator[Mapping[int, float]]:
    """Gives signals to the ranks that have been started; which, and when first. One that is sent again after `AGAIN_S` ends everything."""
    first: dict[int, float] = {}

    def hand_on(number: int, _: Any) -> None:
        now = time.monotonic()
        if now - first.setdefault(number, now) > AGAIN_S:
            sys.exit(128 + number)
        for forked in list(started.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(forked.process, number)

    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        yield first
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def lifeline() -> Iterator[tuple[int, int]]:
    """A pipe that ranks read from and nobody writes to: reading ends when this process does."""
    line = os.pipe()
    try:
        yield line
    finally:
        for descriptor in line:
            os.close(descriptor)


def end(ranks: Sequence[Forked]) -> None:
    """Ends them, and what they have started themselves: the process group of each. That gently: Python's tracker of shared memory and
    semaphores, which is one of those, does not mind, and cleans up when it is alone. A rank itself may have its own use for SIGTERM.
    """
    for forked in ranks:
        for send, number in ((os.killpg, signal.SIGTERM), (os.kill, signal.SIGKILL)):  # a rank may not have made its group yet
            with contextlib.suppress(ProcessLookupError):
                send(forked.process, number)
    for forked in ranks:
        while not has_ended(forked.process):
            time.sleep(0.005)


def has_ended(process: int) -> bool:
    try:
        return os.waitpid(process, os.WNOHANG)[0] != 0
    except ChildProcessError:  # somebody has asked before
        return True


# ---- watching


def collect(started: Mapping[Connection, Forked], folder: Path, stop: Connection | None, deadline: float | None) -> list[Answer]:
    running = dict(started)
    answers: list[Answer] = []
    while running:
        watched = [*running, *([stop] if stop else [])]
        ready = wait(watched, None if deadline is None else max(0, deadline - time.monotonic()))
        if stop in ready:
            raise SystemExit
        if not ready:
            return [still_running(folder, list(running.values()))]
        answers += [receive(pipe, running.pop(pipe)) for pipe in ready if isinstance(pipe, Connection)]
        if any(answer.traceback for answer in answers):
            return [first_failure([*answers, *more_news(running, answers)])]
    return sorted(answers, key=lambda answer: answer.rank)


def more_news(running: dict[Connection, Forked], answers: Sequence[Answer]) -> list[Answer]:
    """Of the ranks that have not answered, until one is found dead or nothing new is to be expected."""
    news: list[Answer] = []
    settled = time.monotonic() + SETTLE_S
    while running and not any(answer.died for answer in [*answers, *news]) and (left := settled - time.monotonic()) > 0:
        news += [receive(pipe, running.pop(pipe)) for pipe in wait(list(running), left) if isinstance(pipe, Connection)]
    return news


def receive(pipe: Connection, forked: Forked) -> Answer:
    try:
        answer: Answer = pipe.recv()
    except (EOFError, ConnectionResetError):
        status = os.waitstatus_to_exitcode(os.waitpid(forked.process, 0)[1])
        said = f"its process ended with status {status}{what_it_means(status)}"
        return Answer(forked.rank, NOTHING, said, died=True, ended_by=max(0, -status))
    return answer


def first_failure(answers: Sequence[Answer]) -> Answer:
    """The dead before those that complain: when one dies, the others' connections to it break."""
    failed = [answer for answer in answers if answer.traceback]
    return next((answer for answer in failed if answer.died), failed[0])


def what_it_means(status: int) -> str:
    if status >= 0:
        return ": something in it ended it, and Python was not told; what it printed is all there is"
    name = signal.Signals(-status).name
    if name == "SIGKILL":
        return (
            f" ({name}): killed from outside. Where memory ran out, the kernel's log says so (dmesg): smaller micro-batches, recomputation "
            "or more tensor and pipeline ranks take less of it"
        )
    if name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"):
        return f" ({name}): compiled code failed; where it was called from is printed above"
    return f" ({name}): somebody sent it this signal"


def still_running(folder: Path, running: Sequence[Forked]) -> Answer:
    """Where each rank is that has not finished in time, as `faulthandler` writes it on a signal."""
    for forked in running:
        os.kill(forked.process, signal.SIGUSR2)
    time.sleep(0.5)
    ranks = sorted(forked.rank for forked in running)
    where = "\n".join(f"rank {rank}:\n{stack_file(folder, rank).read_text()}" for rank in ranks)
    return Answer(ranks[0], NOTHING, f"not finished in time: ranks {ranks}\n{where}")


def stack_file(folder: Path, rank: int) -> Path:
    return folder / f"stack-{rank}"


# ---- in a rank's process


def run_rank(work: Callable[[int, Path], Any], rank: int, folder: Path, answers: Connection, line: tuple[int, int]) -> NoReturn:
    try:
        start_afresh(line, folder)
        stack = stack_file(folder, rank).open("w")
        faulthandler.register(signal.SIGUSR2, file=stack)
        answer = Answer(rank, pickle.dumps(work(rank, folder)))
    except BaseException as error:
        answer = failure(rank, error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed terminal or pipe
            stream.flush()
    with contextlib.suppress(OSError):  # nobody is there to be told
        answers.send(answer)
    while True:  # all ranks are ended together: one that left early would break the others' connections
        signal.pause()


def start_afresh(line: tuple[int, int], folder: Path) -> None:
    """Leaves behind what belongs to the process that forked this one, all but the link to its life."""
    os.setpgid(0, 0)  # what this rank starts ends with it, and an interrupt at the terminal is for the process that forked it
    for number in (signal.SIGINT, *NOTICES):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it may write to the terminal all the same
    faulthandler.enable(file=2)
    reading, writing = line
    os.close(writing)
    threading.Thread(target=end_with, args=(reading, folder), daemon=True).start()


def end_with(line: int, folder: Path) -> None:
    os.read(line, 1)  # returns when the process that holds the other end is no more
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


def failure(rank: int, error: BaseException) -> Answer:
    text = "".join(traceback.format_exception(error))
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:
        pickled = NOTHING
    return Answer(rank, pickled, text)
