"""Bad input to the commands that run a model, as a user meets it: exit status 2 and one message that says what to change."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from loongforge_core.cli.main import main

GOOD = {
    "messages": [{"role": "user", "content": "<image>Digit?"}, {"role": "assistant", "content": "7"}],
    "images": ["seven.png"],
}
TINY = ["data.prepare=null", "train.steps=1", "train.global_batch_size=1", "train.micro_batch_size=1", "train.lr_warmup_steps=0"]


@dataclass(frozen=True)
class Finished:
    """A run of one step, with its data beside it."""

    folder: Path

    def overrides(self, output: Path, *, data: Path | None = None, questions: Path | None = None) -> list[str]:
        good = self.folder / "good.jsonl"
        return [*TINY, f"data.path={data or good}", f"data.eval_path={questions or 'null'}", f"output_dir={output}"]

    @property
    def output(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    run = Finished(tmp_path_factory.mktemp("run"))
    Image.new("L", (8, 8), 100).save(run.folder / "seven.png")
    (run.folder / "cut.png").write_bytes((run.folder / "seven.png").read_bytes()[:45])
    (run.folder / "good.jsonl").write_text(json.dumps(GOOD) + "\n")
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", "digits", *run.overrides(run.output), "train.export_hf=true"]) == 0
    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    return run


BAD_LINES: Mapping[str, tuple[Any, str]] = {
    "not JSON": ("{'messages': 1}", "expected a JSON object in one line"),
    "a key twice": ('{"messages": [], "messages": []}', "the key 'messages' is there twice"),
    "no answer": ({"messages": GOOD["messages"][:1], "images": ["seven.png"]}, "no answer to learn from"),
    "no such image": ({**GOOD, "images": ["nowhere.png"]}, "nowhere.png"),
    "half an image": ({**GOOD, "images": ["cut.png"]}, "cut.png"),
    "two images for one tag": ({**GOOD, "images": ["seven.png", "seven.png"]}, "1 <image> placeholder in the messages, but 2 paths"),
    "too long": ({"messages": [{"role": "user", "content": "1" * 200}, {"role": "assistant", "content": "7"}]}, "128"),
    "empty": ("", "the data file is empty"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_data_line(finished: Finished, refused: Callable[..., str], tmp_path: Path, line: Any, message: str) -> None:
    data = finished.folder / "bad.jsonl"
    data.write_text(line if isinstance(line, str) else json.dumps(line))
    said = refused("train", "digits", *finished.overrides(tmp_path / "out", data=data))
    assert message in said
    assert str(data) in said


def test_questions_are_checked_before_the_first_step(finished: Finished, refused: Callable[..., str], tmp_path: Path) -> None:
    questions = finished.folder / "questions.jsonl"
    questions.write_text("\n".join(json.dumps(line) for line in (GOOD, {**GOOD, "images": ["nowhere.png"]})))
    said = refused("train", "digits", *finished.overrides(tmp_path / "out", questions=questions))
    assert f"{questions}:2: there is no image {finished.folder / 'nowhere.png'}" in said
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_what_was_trained_is_kept_where_a_question_cannot_be_opened(
    finished: Finished, refused: Callable[..., str], tmp_path: Path
) -> None:
    questions = finished.folder / "questions.jsonl"
    questions.write_text(json.dumps({**GOOD, "images": ["cut.png"]}))
    said = refused("train", "digits", *finished.overrides(tmp_path / "out", questions=questions), "train.export_hf=true")
    assert "cut.png" in said
    assert (tmp_path / "out" / "loss.png").is_file()
    assert (tmp_path / "out" / "hf" / "model.safetensors").is_file()


# ----------------------------------------------------------------------------------------------------------- models that do not fit


def spoilt(finished: Finished, folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """A copy of the run's Hugging Face folder with other tensors."""
    folder.mkdir()
    (folder / "config.json").write_bytes((finished.output / "hf" / "config.json").read_bytes())
    tensors = load_file(finished.output / "hf" / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


NORM = "language_model.model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NORM), f"missing tensor {NORM}"),
        (lambda tensors: tensors.update({"more": torch.ones(3)}), "extra tensor more [3]: no rule of the table reads it\n"),
        (lambda tensors: tensors.update({NORM: torch.ones(3)}), f"{NORM} has the shape [3], expected"),
    ],
    ids=["missing", "extra", "shape"],
)
def test_import_of_a_folder_that_does_not_fit(
    finished: Finished, refused: Callable[..., str], tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    folder = spoilt(finished, tmp_path / "hf", change)
    target = tmp_path / "imported"
    said = refused("import-hf", "digits", *finished.overrides(tmp_path), "--folder", str(folder), "--output", str(target))
    assert message in said
    assert not target.exists()


def test_a_checkpoint_of_another_model(finished: Finished, refused: Callable[..., str]) -> None:
    overrides = [*finished.overrides(finished.output), "model.foundation.num_layers=1", "--checkpoint", str(finished.output)]
    said = refused("generate", "digits", *overrides, "--prompt", "1+1?")
    assert "num_layers" in said


# ------------------------------------------------------------------------------------------------------- layouts that cannot be run

BAD_LAYOUTS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "heads": (["--nproc=3", "tensor_model_parallel_size=3"], ["num_attention_heads 4 does not divide by 3: 4 = 1 x 3 + 1"]),
    "layers": (["--nproc=3", "pipeline_model_parallel_size=3"], ["num_layers 2 of the foundation", "2 < 3", "nearest valid: 2"]),
    "an encoder": (
        ["--nproc=4", "tensor_model_parallel_size=4", "image_encoder={layout: tensor, tensor_model_parallel_size: 3}"],
        ["parallel.image_encoder.tensor_model_parallel_size: 3 is no divisor", "4 = 1 x 3 + 1", "nearest valid: 2"],
    ),
    "stages of encoders": (
        ["--nproc=3", "pipeline_model_parallel_size=3", "encoder_pipeline_model_parallel_size=2"],
        ["more than one stage of encoders is not there yet", "nearest valid: 1"],
    ),
    "processes": (
        ["tensor_model_parallel_size=2"],
        ["= 2 processes, and the world size 1", "nearest valid: 1, or 2 processes", "--nproc N"],
    ),
    "a batch": (["--nproc=2"], ["128 x 2 data-parallel replicas = 256", "nearest valid: 256, or train.micro_batch_size 64"]),
}


@pytest.mark.parametrize(("given", "messages"), BAD_LAYOUTS.values(), ids=BAD_LAYOUTS)
def test_a_layout_that_cannot_be_run(refused: Callable[..., str], tmp_path: Path, given: Sequence[str], messages: Sequence[str]) -> None:
    overrides = [text if text.startswith("--") else f"parallel.{text}" for text in given]
    said = refused("train", "digits", f"output_dir={tmp_path / 'out'}", *overrides)
    for message in messages:
        assert message in said
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("transformer_engine") is not None, reason="transformer-engine is installed here")
def test_a_backend_that_is_not_installed_can_be_validated_and_not_run(
    refused: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["model.foundation.backend=transformer_engine", f"output_dir={tmp_path / 'out'}"]
    assert main(["validate", "digits", *overrides]) == 0
    assert "note: model.foundation.backend: transformer_engine is not installed here" in capsys.readouterr().out
    assert "model.foundation.backend: transformer_engine is not installed here" in refused("train", "digits", *overrides)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------- what is said at the end


def test_a_path_is_not_suggested_as_a_name_to_show(finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.yaml").write_text("defaults: [digits]\n")
    for config, shown in ((str(tmp_path / "my.yaml"), False), ("digits", True)):
        assert main(["train", config, *finished.overrides(finished.output)]) == 0  # finished already: it only says its last words
        assert (f"loongforge show {config}" in capsys.readouterr().out) is shown
