"""Arguments, dispatch and exit status."""

from __future__ import annotations

import os
import sys
import types
from argparse import Namespace
from collections.abc import Callable

import pytest

from loongforge_core.cli import run
from loongforge_core.cli.main import main
from loongforge_core.errors import DataError, LoongForgeError


def stand_in_for_run(monkeypatch: pytest.MonkeyPatch, command: Callable[[Namespace], None]) -> None:
    """In the place of `cli/run.py`, which needs torch: every command does this instead."""
    module = types.ModuleType("loongforge_core.cli.run")
    for name in ("train", "evaluate", "generate", "import_hf", "export_hf"):
        setattr(module, name, command)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Namespace]:
    """What commands are called with, which do nothing else."""
    calls: list[Namespace] = []
    stand_in_for_run(monkeypatch, calls.append)
    return calls


def test_overrides_may_stand_among_the_options(called: list[Namespace]) -> None:
    assert main(["train", "digits", "train.steps=2", "--config-dir", "here", "~model.image_encoder", "+a=b"]) == 0
    (args,) = called
    assert args.config == "digits"
    assert args.overrides == ["train.steps=2", "~model.image_encoder", "+a=b"]
    assert args.config_dir == ["here"]


def test_every_command_gets_its_arguments(called: list[Namespace]) -> None:
    assert main(["evaluate", "c", "--checkpoint", "k", "--questions", "q", "a=1"]) == 0
    assert main(["generate", "c", "--prompt", "What?", "--item", "image=a.png", "--item", "image=b.png"]) == 0
    assert main(["import-hf", "c", "--folder", "f", "--output", "o"]) == 0
    assert main(["export-hf", "c", "--checkpoint", "k", "--output", "o"]) == 0
    evaluate, generate, import_hf, export_hf = called
    assert (evaluate.checkpoint, evaluate.questions, evaluate.overrides) == ("k", "q", ["a=1"])
    assert (generate.prompt, generate.item, generate.checkpoint) == ("What?", ["image=a.png", "image=b.png"], None)
    assert (import_hf.folder, import_hf.output) == ("f", "o")
    assert (export_hf.checkpoint, export_hf.output) == ("k", "o")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["lst"], "invalid choice: 'lst'"),
        (["validate"], "CONFIG"),
        (["validate", "c", "--wrld-size", "3"], "unrecognized arguments: --wrld-size"),
        (["validate", "c", "--world-size", "0"], "--world-size"),
        (["list", "extra"], "unrecognized arguments: extra"),
        (["generate", "c"], "--prompt"),
    ],
)
def test_a_wrong_command_line_is_status_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_help_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "copy-configs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (DataError("line 3 is no JSON"), 2, "error: line 3 is no JSON\n"),
        (LoongForgeError("the disk is full"), 1, "error: the disk is full\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_the_exit_status_says_whose_fault_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str
) -> None:
    def train(args: Namespace) -> None:
        raise error

    stand_in_for_run(monkeypatch, train)
    assert main(["train", "digits"]) == status
    assert capsys.readouterr().err == said


def test_an_error_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(args: Namespace) -> None:
        raise ZeroDivisionError

    stand_in_for_run(monkeypatch, train)
    with pytest.raises(ZeroDivisionError):
        main(["train", "digits"])


@pytest.mark.parametrize("command", ["train", "evaluate", "generate", "import-hf", "export-hf"])
def test_help_tells_how_to_start_several_processes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "--nproc N" in said and "torchrun or srun" in " ".join(said.split())
    assert main([command, "digits", "--nproc", "0"]) == 2


def test_ranks_share_the_cores_where_nobody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "physical_cores", lambda: 8)
    for name in ("OPENBLAS_NUM_THREADS", "PYTORCH_NVML_BASED_CUDA_CHECK", "CUDA_DEVICE_MAX_CONNECTIONS"):
        monkeypatch.setenv(name, "")  # put back after this test
    for number, threads in ((2, "4"), (3, "2"), (16, "1")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        run.prepare_to_fork(number)
        assert os.environ["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run.prepare_to_fork(2)
    assert os.environ["OMP_NUM_THREADS"] == "3"
