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


def write_process_id_and_wait(folder: Path) -> None:
    (folder / str(distributed.get_rank())).write_text(str(os.getpid()))
    time.sleep(60)


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


def test_eight_ranks_with_groups_take_seconds_at_most() -> None:
    run_ranks(sum_of_ranks, 1, 0)  # the server is there
    start = time.monotonic()
    assert run_ranks(groups_of_megatron, 8) == [(0, 0), (1, 0)] * 2 + [(0, 1), (1, 1)] * 2
    assert time.monotonic() - start < 10  # about one on two idle cores


def test_a_rank_that_raises_ends_the_others_and_shows_its_traceback() -> None:
    start = time.monotonic()
    with pytest.raises(RankError, match=r"(?s)rank 1 of 3.*raise_on_rank_one.*DataError: line 3 is no JSON") as caught:
        run_ranks(raise_on_rank_one, 3)
    assert isinstance(caught.value.__cause__, DataError)
    assert time.monotonic() - start < 10


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


def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        f"spec = spec_from_file_location('ranks_of_a_dead_parent', {__file__!r})\n"
        "module = sys.modules[spec.name] = module_from_spec(spec); spec.loader.exec_module(module)\n"
        f"module.run_ranks(module.write_process_id_and_wait, 2, module.Path({str(tmp_path)!r}))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    ranks = wait_for(lambda: [int(text) for path in tmp_path.iterdir() if (text := path.read_text())], 2)
    parent.kill()
    parent.wait()
    wait_for(lambda: [rank for rank in ranks if Path(f"/proc/{rank}").exists()], 0)


def wait_for(read, length: int):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while len(found := read()) != length:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_a_function_of_the_main_module(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from loongforge_core.parallel.launch import run_ranks\n"
        "def twice(number):\n    return 2 * number\n"
        "if __name__ == '__main__':\n    print(run_ranks(twice, 2, 21))\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout == "[42, 42]\n", done.stderr


def test_single_process_can_be_entered_again() -> None:
    from megatron.core import parallel_state

    for _ in range(2):
        with single_process():
            assert parallel_state.get_data_parallel_world_size() == 1
        assert not distributed.is_initialized()
        assert not parallel_state.is_initialized()
