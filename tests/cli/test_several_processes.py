"""Commands as several processes: the same numbers, one voice, and one end, as a user sees them who starts real ones."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from started import install, is_running, start, until

from loongforge_core.cli.main import main
from loongforge_core.cli.processes import differences

SHORT = ["train.steps=10", "train.lr_warmup_steps=2", "train.export_hf=false"]
TENSOR_AND_PIPELINE = ["parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m"]


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int
    out: str
    err: str


def finished(process: subprocess.Popen[str]) -> Finished:
    out, err = process.communicate(timeout=300)
    return Finished(process.returncode, out, err)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Ten steps in one process, and the data that they were on; forty of its questions in a file."""
    folder = tmp_path_factory.mktemp("alone")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(["train", "digits", *SHORT, "data.eval_path=null", f"output_dir={folder}"])
    questions = (folder / "data" / "test.jsonl").read_text().splitlines(keepends=True)
    (folder / "data" / "forty.jsonl").write_text("".join(questions[::9][:40]))
    return folder, Finished(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def four(alone: tuple[Path, Finished], site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """The same on four ranks, which answer the questions at the end."""
    data, folder = alone[0] / "data", tmp_path_factory.mktemp("four")
    where = [f"data.path={data / 'train.jsonl'}", f"data.eval_path={data / 'forty.jsonl'}", "data.prepare=null", f"output_dir={folder}"]
    return folder, finished(start(site, ["train", "digits", "--nproc", "4", *TENSOR_AND_PIPELINE, *SHORT, *where]))


# ---- the same numbers


def test_training_on_four_ranks_gives_the_numbers_of_one(alone: tuple[Path, Finished], four: tuple[Path, Finished]) -> None:
    assert four[1].status == 0, four[1].err
    ours, theirs = lines_of(four[0]), lines_of(alone[0])
    assert len(ours) == len(theirs) == 10
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == their.keys()
        assert our["loss"] == pytest.approx(their["loss"], rel=1e-5)
        assert our["grad_norm"] == pytest.approx(their["grad_norm"], rel=1e-4)
        assert all(our[name] == their[name] for name in ("step", "learning_rate", "tokens", "samples"))


def test_pipeline_stages_train_to_the_last_bit_as_one_process(alone: tuple[Path, Finished], site: Path, tmp_path: Path) -> None:
    """Every sum has the same order, where ranks have as many threads as the one process: hence the same model, and the same answers."""
    data = alone[0] / "data"
    micro_batches = ["train.micro_batch_size=32", f"data.path={data / 'train.jsonl'}", f"data.eval_path={data / 'forty.jsonl'}"]
    stages = ["--nproc", "3", "parallel.pipeline_model_parallel_size=3", "parallel.encoder_pipeline_model_parallel_size=1"]
    folders = [tmp_path / "one", tmp_path / "three"]
    for folder, layout in zip(folders, ([], stages), strict=True):
        run = finished(start(site, ["train", "digits", *layout, *SHORT, *micro_batches, "data.prepare=null", f"output_dir={folder}"]))
        assert run.status == 0, run.err
    one, three = ([[line["loss"], line["grad_norm"]] for line in lines_of(folder)] for folder in folders)
    assert len(one) == 10
    assert three == one
    for name in ("evaluation.json", "predictions.jsonl"):
        assert (folders[1] / name).read_bytes() == (folders[0] / name).read_bytes()


def test_rank_0_speaks_for_all(alone: tuple[Path, Finished], four: tuple[Path, Finished]) -> None:
    said = four[1].err.splitlines()
    assert [line for line in said if not line.startswith("step")] == [
        line for line in alone[1].err.splitlines() if not line.startswith("step")
    ]
    assert "269,056" in four[1].err, "the table is of the whole model"
    assert four[1].out.count("Held-out exact match") == four[1].out.count("Try next") == 1
    assert "generate digits" not in four[1].out or "--nproc 4" in four[1].out
    assert {"loss.png", "predictions.png", "predictions.jsonl"} <= {path.name for path in four[0].iterdir()}


def test_four_ranks_answer_as_one_does(four: tuple[Path, Finished], tmp_path: Path, alone: tuple[Path, Finished]) -> None:
    """The checkpoint that they wrote, evaluated in one process: the same files, byte for byte."""
    questions = alone[0] / "data" / "forty.jsonl"
    command = [
        "evaluate",
        "digits",
        f"data.eval_path={questions}",
        "data.prepare=null",
        f"data.path={questions}",
        "--checkpoint",
        str(four[0]),
    ]
    assert main([*command, f"output_dir={tmp_path}"]) == 0
    for name in ("evaluation.json", "predictions.jsonl"):
        assert (tmp_path / name).read_bytes() == (four[0] / name).read_bytes(), name


# ---- one end


def faulty(alone: tuple[Path, Finished], output: Path, fault: str, *more: str) -> list[str]:
    """A run on two tensor ranks, of which one fails in its second step."""
    projector = "model.image_projector"
    return [
        *("train", "digits", f"{projector}.type=faulty", f"{projector}.fault={fault}", "parallel.tensor_model_parallel_size=2"),
        *("train.steps=3", "train.lr_warmup_steps=0", "train.export_hf=false", "train.global_batch_size=4", "train.micro_batch_size=4"),
        *(f"data.path={alone[0] / 'data' / 'train.jsonl'}", "data.eval_path=null", "data.prepare=null", f"output_dir={output}", *more),
    ]


def test_a_rank_that_raises_has_the_last_word(alone: tuple[Path, Finished], site: Path, tmp_path: Path) -> None:
    ended = finished(start(site, [*faulty(alone, tmp_path, "raises"), "--nproc", "2"]))
    assert ended.status == 1
    assert ended.err.rstrip().endswith("ZeroDivisionError: the planted fault")
    assert "rank 1 of 2 failed" in ended.err
    assert "in fail" in ended.err, "its own traceback"
    assert ended.err.count("Traceback") == 1, "and no other's"


def test_a_rank_that_is_killed_is_named_and_nobody_else_complains(alone: tuple[Path, Finished], site: Path, tmp_path: Path) -> None:
    ended = finished(start(site, [*faulty(alone, tmp_path, "killed", "model.image_projector.on_rank=0"), "--nproc", "2"]))
    assert ended.status == 1
    assert "rank 0 of 2 failed" in ended.err
    assert "(SIGKILL): killed from outside" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


def test_a_users_error_on_one_rank_is_one_message(alone: tuple[Path, Finished], site: Path, tmp_path: Path) -> None:
    ended = finished(start(site, [*faulty(alone, tmp_path, "data"), "--nproc", "2"]))
    assert ended.status == 2
    assert ended.err.splitlines()[-1] == "error: line 3 is no good"
    assert ended.err.count("line 3") == 1 and "Traceback" not in ended.err


def test_the_ranks_end_with_the_command(alone: tuple[Path, Finished], site: Path, tmp_path: Path) -> None:
    command = [*faulty(alone, tmp_path / "out", "waits", f"model.image_projector.folder={tmp_path}", "model.image_projector.at_pass=1")]
    process = start(site, [*command, "--nproc", "2"])
    ranks = [
        int(path.read_text()) for path in until(lambda: [tmp_path / "0", tmp_path / "1"], lambda them: all(one.exists() for one in them))
    ]
    assert all(map(is_running, ranks))
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does it
    ended = finished(process)
    assert ended.status == 130
    until(lambda: [rank for rank in ranks if is_running(rank)], lambda running: not running, timeout_s=20)
    assert ended.err.splitlines()[-1] == "interrupted"


def test_a_notice_to_the_command_has_the_ranks_save_and_end(alone: tuple[Path, Finished], site: Path, tmp_path: Path) -> None:
    output, slow = tmp_path / "out", [f"model.image_projector.folder={tmp_path}", "model.image_projector.wait_s=1"]
    process = start(site, [*faulty(alone, output, "waits", *slow), "--nproc", "2"])
    until(lambda: [tmp_path / "0", tmp_path / "1"], lambda them: all(one.exists() for one in them))  # in the second step
    process.send_signal(signal.SIGTERM)
    ended = finished(process)
    assert ended.status == 143, ended.err
    saved = output / "checkpoints" / "step_00000002"
    assert ended.err.splitlines()[-1] == f"stopped by SIGTERM after step 2 of 3; saved in {saved}; the same command goes on"
    assert "Try next" not in ended.out, "what follows a finished run"
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


# ---- before any process is there


def test_a_layout_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "fork", None)
    assert main(["train", "digits", "--nproc", "3", "parallel.tensor_model_parallel_size=2"]) == 2
    assert "world size 3" in capsys.readouterr().err
    assert main(["train", "digits", "parallel.tensor_model_parallel_size=2"]) == 2
    said = capsys.readouterr().err
    assert "world size 1" in said and "--nproc N starts several" in said
    assert main(["train", "digits", "train.lr=fast"]) == 2
    assert "--nproc" not in capsys.readouterr().err


# ---- a launcher's processes


def on_slurm(
    site: Path,
    arguments: list[str],
    *,
    sites: tuple[Path, ...] = (),
    launcher: list[str] | None = None,
    meanwhile: Callable[[list[Any]], None] = lambda _: None,
) -> list[Finished]:
    """Two tasks as srun starts them. Nothing ends the one when the other fails, as srun does only where it is told to."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = {"SLURM_NTASKS": 2, "SLURM_JOB_ID": 7, "SLURM_JOB_NODELIST": "localhost", "MASTER_PORT": port}
    tasks = [
        start(sites[rank] if sites else site, arguments, more={**job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}, launcher=launcher)
        for rank in range(2)
    ]
    meanwhile(tasks)
    return [finished(task) for task in tasks]


def test_tasks_of_slurm_train_together(alone: tuple[Path, Finished], site: Path, tmp_path: Path) -> None:
    first, second = on_slurm(site, faulty(alone, tmp_path, "none"), launcher=["-m"])
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert "step 3/3" in first.err and "Try next" in first.out
    assert (second.out, second.err) == ("", "")
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]


def test_a_notice_to_one_task_of_slurm_ends_all_with_its_number(alone: tuple[Path, Finished], site: Path, tmp_path: Path) -> None:
    slow = [f"model.image_projector.folder={tmp_path}", "model.image_projector.wait_s=1"]

    def send(tasks: list[Any]) -> None:
        until(lambda: tmp_path / "1", lambda one: one.exists())
        tasks[1].send_signal(signal.SIGUSR1)

    first, second = on_slurm(site, faulty(alone, tmp_path / "out", "waits", *slow), meanwhile=send)
    assert (first.status, second.status) == (138, 138), first.err + second.err
    assert first.err.splitlines()[-1].startswith("stopped by SIGUSR1 after step 2 of 3; saved in ")
    assert (second.out, second.err) == ("", "")


def test_a_task_of_slurm_that_fails_says_so_and_the_other_does_not_hang(alone: tuple[Path, Finished], site: Path, tmp_path: Path) -> None:
    first, second = on_slurm(site, faulty(alone, tmp_path, "raises"))
    assert (first.status, second.status) == (1, 1)
    assert "Traceback" not in first.err, "the end of its connection is no news"
    assert second.err.startswith("rank 1 of 2 on ") and second.err.rstrip().endswith("ZeroDivisionError: the planted fault")


def test_a_wrong_composition_is_said_once(site: Path, tmp_path: Path) -> None:
    first, second = on_slurm(site, ["train", "digits", "train.lr=fast", f"output_dir={tmp_path}"])
    assert (first.status, second.status) == (2, 2)
    assert "train.lr" in first.err and "Traceback" not in first.err
    assert second.err == ""


def test_ranks_with_different_plugins_are_refused(site: Path, tmp_path: Path) -> None:
    newer = install(tmp_path / "site", version="1.1")
    first, second = on_slurm(site, ["train", "digits", f"output_dir={tmp_path}"], sites=(site, newer))
    assert (first.status, second.status) == (2, 2)
    host = socket.gethostname()
    assert f"  rank 1 on {host}: faulty_plugin 1.1; rank 0 on {host}: faulty_plugin 1.0\n" in first.err
    assert "Traceback" not in first.err
    assert second.err == ""


def test_differences_are_told_by_host() -> None:
    one, two, three = ["core 1", "vit 1"], ["core 1", "vit 2"], ["core 1", "more 1", "vit 1"]
    assert differences([("a", one), ("a", one)]) == []
    assert differences([("a", one), ("b", two), ("b", two), ("b", one), ("c", three), ("d", ["core 1"])]) == [
        "  rank 1, 2 on b: vit 2; rank 0 on a: vit 1",
        "  rank 4 on c: more 1; rank 0 on a: nothing",
        "  rank 5 on d: nothing; rank 0 on a: vit 1",
    ]


def test_torchrun_ends_all_when_one_fails(alone: tuple[Path, Finished], site: Path, tmp_path: Path) -> None:
    ended = finished(start(site, faulty(alone, tmp_path, "raises"), launcher=TORCHRUN))
    assert ended.status != 0
    ours = ended.err.partition("torch/distributed/elastic")[0]
    assert "ZeroDivisionError: the planted fault" in ours
    assert ours.count("Traceback") == 1
    assert len(lines_of(tmp_path)) == 1, "the first step was done"


def test_torchrun_generates(four: tuple[Path, Finished], site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "digits", "--checkpoint", str(four[0]), "--prompt", "1+1?", f"output_dir={tmp_path}"]
    assert main(command) == 0
    alone = capsys.readouterr().out
    ended = finished(start(site, [*command, "parallel.pipeline_model_parallel_size=2"], launcher=TORCHRUN))
    assert ended.status == 0, ended.err
    assert ended.out == alone
