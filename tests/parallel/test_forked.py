"""Forked ranks answer in order, fail together, and leave nothing behind. What they do here needs no torch, and takes no time."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loongforge_core.parallel import forked
from loongforge_core.parallel.forked import fork_ranks

SOURCES = Path(__file__).parents[2]


def failed(work: Callable[[int, Path], Any], world_size: int = 3) -> tuple[int, str]:
    (answer,) = fork_ranks(work, world_size)
    return answer.rank, answer.traceback


def test_answers_come_in_the_order_of_ranks() -> None:
    def work(rank: int, folder: Path) -> str:
        time.sleep(0.2 * (3 - rank))
        (folder / str(rank)).touch()
        return f"{rank} in {folder}"

    answers = [pickle.loads(answer.pickled) for answer in fork_ranks(work, 3)]
    (folder,) = {answer.partition(" in ")[2] for answer in answers}
    assert [answer[0] for answer in answers] == ["0", "1", "2"]
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, r"status -9 (SIGKILL): killed from outside. Where memory ran out"),
        (signal.SIGABRT, "status -6 (SIGABRT): compiled code failed"),
        (signal.SIGTERM, "status -15 (SIGTERM): somebody sent it this signal"),
    ],
)
def test_a_signal_that_ended_a_rank_is_explained(number: int, said: str) -> None:
    def work(rank: int, folder: Path) -> None:
        if rank == 1:
            os.kill(os.getpid(), number)
        signal.pause()

    rank, text = failed(work)
    assert (rank, said in text) == (1, True), text


def test_compiled_code_that_crashes_shows_where_it_was_called(capfd: pytest.CaptureFixture[str]) -> None:
    def read_nothing(rank: int, folder: Path) -> None:
        ctypes.string_at(0)

    assert "SIGSEGV" in failed(read_nothing, 1)[1]
    assert "in read_nothing" in capfd.readouterr().err


def test_a_rank_that_leaves_without_a_word_has_failed() -> None:
    rank, text = failed(lambda rank, folder: os._exit(0) if rank == 2 else signal.pause())
    assert rank == 2
    assert "status 0" in text


def test_the_dead_come_before_those_that_complain_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "SETTLE_S", 60.0)  # of which no more passes than the rank needs to die

    def work(rank: int, folder: Path) -> None:
        if rank == 2:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        raise ConnectionError("rank 2 is gone")  # said before rank 2 is

    assert failed(work)[0] == 2


def test_the_first_of_those_that_raise() -> None:
    def work(rank: int, folder: Path) -> None:
        if rank != 1:
            while not (folder / "raised").exists():
                time.sleep(0.01)
            time.sleep(30)  # nobody waits for this
        (folder / "raised").touch()
        raise ValueError(f"I am {rank}")

    rank, text = failed(work)
    assert rank == 1
    assert text.rstrip().endswith("ValueError: I am 1")


def test_an_exception_that_cannot_be_pickled_still_has_its_traceback() -> None:
    class Local(Exception): ...

    def work(rank: int, folder: Path) -> None:
        raise Local("here")

    assert failed(work, 1)[1].rstrip().endswith("Local: here")


def test_what_a_rank_started_ends_with_it(tmp_path: Path) -> None:
    def work(rank: int, folder: Path) -> None:
        child = subprocess.Popen(["sleep", "60"])
        (tmp_path / "child").write_text(str(child.pid))
        raise ValueError

    failed(work, 1)
    wait_until_ended([int((tmp_path / "child").read_text())])


def test_a_rank_that_will_not_end_is_ended(tmp_path: Path) -> None:
    def work(rank: int, folder: Path) -> None:
        if rank == 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (tmp_path / "stubborn").write_text(str(os.getpid()))
            time.sleep(60)
        while not (tmp_path / "stubborn").exists():
            time.sleep(0.01)
        raise ValueError

    assert failed(work, 2)[0] == 0
    assert not is_running(int((tmp_path / "stubborn").read_text()))


# ---- signals that are for the ranks


def told(rank: int, folder: Path) -> str:
    """Which signal came, when all ranks were ready for one; rank 0 sends it to the process that forked them."""
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    (folder / str(rank)).touch()
    while rank == 0 and not all((folder / str(other)).exists() for other in range(3)):
        time.sleep(0.01)
    if rank == 0:
        os.kill(os.getppid(), signal.SIGUSR1)
    while not heard:
        time.sleep(0.01)
    return signal.Signals(heard[0]).name


def test_signals_are_handed_on_to_all_ranks() -> None:
    answers = [pickle.loads(answer.pickled) for answer in fork_ranks(told, 3, hand_on=forked.NOTICES)]
    assert answers == ["SIGUSR1"] * 3
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.mark.parametrize("number", forked.NOTICES)
def test_ranks_that_end_by_a_signal_handed_on_end_all_as_it_would_have(number: signal.Signals) -> None:
    def work(rank: int, folder: Path) -> None:
        if rank == 1:
            os.kill(os.getppid(), number)
        signal.pause()

    with pytest.raises(SystemExit) as ended:
        fork_ranks(work, 2, hand_on=forked.NOTICES)
    assert ended.value.code == 128 + number


def test_a_signal_sent_again_later_ends_ranks_that_do_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "AGAIN_S", 0.2)

    def work(rank: int, folder: Path) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if rank == 0:
            for pause_s in (0.0, 0.05, 0.4):  # what comes soon after the first is the same notice
                time.sleep(pause_s)
                (folder / f"sent after {pause_s}").touch()
                os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)

    with pytest.raises(SystemExit) as ended:
        fork_ranks(work, 2, hand_on=forked.NOTICES)
    assert ended.value.code == 128 + signal.SIGTERM


ENDINGS: dict[str, str] = {
    "it is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "it is terminated": "os.kill(os.getpid(), signal.SIGTERM)",
    "it is interrupted": "os.kill(os.getpid(), signal.SIGINT)",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_ranks_end_with_the_process_that_forked_them(ending: str, tmp_path: Path) -> None:
    code = f"""
import os, pathlib, signal, sys, threading, time
from loongforge_core.parallel.forked import fork_ranks

folder = pathlib.Path(sys.argv[1])

def work(rank, shared):
    (folder / f"{{rank}}.new").write_text(f"{{os.getpid()}} {{shared}}")
    (folder / f"{{rank}}.new").rename(folder / str(rank))
    time.sleep(120)

def end_when_all_are_there():
    while sum((folder / str(rank)).exists() for rank in range(3)) < 3:
        time.sleep(0.01)
    {ending}

real_fork, children = os.fork, []
def fork():  # the thread must not be there while ranks are forked
    children.append(real_fork())
    if len(children) == 3 and children[-1]:
        threading.Thread(target=end_when_all_are_there, daemon=True).start()
    return children[-1]
os.fork = fork
fork_ranks(work, 3)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(SOURCES)}, capture_output=True, timeout=60
    )
    assert ended.returncode != 0
    ranks = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    wait_until_ended([int(process) for process, _ in ranks])
    assert not any(Path(shared).exists() for _, shared in ranks)


def wait_until_ended(processes: list[int]) -> None:
    deadline = time.monotonic() + 20
    while running := [process for process in processes if is_running(process)]:
        assert time.monotonic() < deadline, running
        time.sleep(0.02)


def is_running(process: int) -> bool:
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
