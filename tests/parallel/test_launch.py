"""Ranks start fast, answer in order, fail together, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import megatron.core
import pytest
import torch
from torch import distributed

from loongforge_core.errors import DataError
from loongforge_core.parallel.launch import RankError, run_ranks, single_process


def sum_of_ranks(offset: int) -> tuple[int, torch.Tensor]:
    total = torch.tensor([distributed.get_rank() + offset])
    distributed.all_reduce(total)
    return distributed.get_rank(), total


def raise_on_rank_one() -> None:
    if distributed.get_rank() == 1:
        raise DataError("line 3 is no JSON")
    distributed.barrier()


def die_on_rank_one(how: str) -> None:
    if distributed.get_rank() == 1:
        os._exit(7) if how == "leaves" else os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def never_meet() -> None:
    if distributed.get_rank() == 0:
        time.sleep(60)
    distributed.barrier()


def groups_of_megatron() -> tuple[int, int]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
    return parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_pipeline_model_parallel_rank()


def version_of_megatron() -> str:
    return str(megatron.core.__version__)


def test_ranks_run_the_megatron_of_this_process() -> None:
    assert run_ranks(version_of_megatron, 1) == [version_of_megatron()]


def test_results_come_in_the_order_of_ranks() -> None:
    results = run_ranks(sum_of_ranks, 3, 10)
    assert [rank for rank, _ in results] == [0, 1, 2]
    assert all(total.item() == 33 for _, total in results)


def test_eight_ranks_have_megatrons_groups() -> None:
    assert run_ranks(groups_of_megatron, 8) == [(0, 0), (1, 0)] * 2 + [(0, 1), (1, 1)] * 2


def test_a_rank_that_raises_ends_the_others_and_shows_its_traceback() -> None:
    """Which wait for it, and would be what is said when the time is over."""
    with pytest.raises(RankError, match=r"(?s)rank 1 of 3.*raise_on_rank_one.*DataError: line 3 is no JSON") as caught:
        run_ranks(raise_on_rank_one, 3)
    assert isinstance(caught.value.__cause__, DataError)


@pytest.mark.parametrize(("how", "said"), [("leaves", "status 7"), ("is killed", r"status -9 \(SIGKILL\)")])
def test_a_rank_that_dies_is_named(how: str, said: str) -> None:
    """Not those that complain about their connections to it."""
    with pytest.raises(RankError, match=f"(?s)rank 1 of 3.*{said}"):
        run_ranks(die_on_rank_one, 3, how)


def test_ranks_that_hang_say_where() -> None:
    with pytest.raises(RankError, match=r"(?s)not finished in time.*in never_meet"):
        run_ranks(never_meet, 2, timeout_s=2)


def test_the_server_works_on_after_a_failure() -> None:
    with pytest.raises(RankError):
        run_ranks(raise_on_rank_one, 2)
    assert len(run_ranks(sum_of_ranks, 2, 0)) == 2


def test_a_program_of_its_own(tmp_path: Path) -> None:
    """Functions of its main module run on ranks, and ranks end with the process that started them."""
    script, folder = tmp_path / "script.py", tmp_path / "ranks"
    folder.mkdir()
    script.write_text(
        "import os, pathlib, sys, time\n"
        "from loongforge_core.parallel.launch import run_ranks\n"
        "def twice(number):\n    return 2 * number\n"
        "def wait(folder):\n    (folder / str(os.getpid())).touch(); time.sleep(300)\n"
        "if __name__ == '__main__':\n"
        "    print(run_ranks(twice, 2, 21), flush=True)\n"
        "    run_ranks(wait, 2, pathlib.Path(sys.argv[1]))\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    parent = subprocess.Popen([sys.executable, script, folder], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)
    assert parent.stdout and parent.stdout.readline() == "[42, 42]\n"
    ranks = wait_for(lambda: [int(file.name) for file in folder.iterdir()], 2)
    parent.kill()
    parent.wait()
    wait_for(lambda: [rank for rank in ranks if Path(f"/proc/{rank}").exists()], 0)


def wait_for(read, length: int):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while len(found := read()) != length:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_single_process_can_be_entered_again() -> None:
    from megatron.core import parallel_state

    for _ in range(2):
        with single_process():
            assert parallel_state.get_data_parallel_world_size() == 1
        assert not distributed.is_initialized()
        assert not parallel_state.is_initialized()
