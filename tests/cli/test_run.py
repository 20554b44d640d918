"""The commands that run models, one after another on one small run, as a user types them."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, Qwen2ForCausalLM

from loongforge_core.cli.main import main
from loongforge_core.cli.model_commands import tagged
from loongforge_core.errors import InputError

QUESTIONS = [
    ("<image>Read.", "7", 1, "one"),
    ("<image><image>Sum?", "12", 2, "two"),
    ("<image>Digit?", "3", 1, "one"),
    ("1+1?", "2", 0, "text"),
]
SMALL = ["data.prepare=null", "train.steps=60", "train.global_batch_size=4", "train.micro_batch_size=2", "train.lr_warmup_steps=0"]


@dataclass(frozen=True)
class Run:
    """A finished `train` of a model that has memorised a few questions."""

    folder: Path
    overrides: list[str]
    said: str

    @property
    def images(self) -> list[str]:
        return sorted(str(path) for path in (self.folder.parent / "images").iterdir())

    @property
    def command(self) -> list[str]:
        return ["digits", *self.overrides]


def write_questions(folder: Path) -> Path:
    random, lines, number = np.random.default_rng(0), [], 0
    (folder / "images").mkdir()
    for question, answer, count, kind in QUESTIONS:
        images = []
        for _ in range(count):
            images.append(f"images/{number}.png")
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / images[-1])
            number += 1
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages, "images": images, "kind": kind}))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "questions.jsonl"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    data = write_questions(folder)
    overrides = [*SMALL, f"data.path={data}", f"data.eval_path={data}", "train.eval_interval=50", f"output_dir={folder / 'out'}"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["train", "digits", *overrides]) == 0
    return Run(folder / "out", overrides, said.getvalue())


def test_train_leaves_everything(run: Run) -> None:
    names = {path.name for path in run.folder.iterdir()}
    expected = {"metrics.jsonl", "evaluation.json", "predictions.jsonl", "predictions.png", "loss.png", "config.yaml", "checkpoints", "hf"}
    assert expected <= names
    assert json.loads((run.folder / "evaluation.json").read_text()) == {
        "one": {"exact_match": 1.0, "samples": 2},
        "two": {"exact_match": 1.0, "samples": 1},
        "text": {"exact_match": 1.0, "samples": 1},
    }


def test_train_says_how_good_it_is_and_what_to_try(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert "100.00% of 2" in run.said
    assert all(name in run.said for name in ("predictions.png", "loss.png", "evaluation.json"))
    command = next(line for line in run.said.splitlines() if "loongforge generate" in line)
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out == "12\n"


@pytest.mark.parametrize(
    ("prompt", "images", "answer"), [("Read.", [0], "7"), ("<image>Digit?", [3], "3"), ("Sum?", [1, 2], "12"), ("1+1?", [], "2")]
)
def test_generate_prints_the_answer_only(run: Run, prompt: str, images: list[int], answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    items = [text for number in images for text in ("--item", f"image={run.images[number]}")]
    assert main(["generate", *run.command, "--prompt", prompt, *items]) == 0
    assert capsys.readouterr().out == f"{answer}\n"


def test_evaluate_again_and_another_file(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run.folder / "evaluation.json").read_bytes()
    assert main(["evaluate", *run.command]) == 0
    assert (run.folder / "evaluation.json").read_bytes() == before
    other = tmp_path / "other.jsonl"
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "3"}]
    other.write_text(json.dumps({"messages": messages, "kind": "wrong"}) + "\n")
    assert main(["evaluate", *run.command, "--questions", str(other)]) == 0
    assert (run.folder / "evaluation.json").read_bytes() == before
    report = json.loads((run.folder / "evaluation_other" / "evaluation.json").read_text())
    assert report == {"wrong": {"exact_match": 0.0, "samples": 1}}
    assert "0.00% of 1" in capsys.readouterr().out


def test_the_best_checkpoint_has_a_name(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (run.folder / "evaluations.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["exact_match"], -row["loss"]))
    assert len(rows) > 1 and "evaluations.jsonl" in run.said
    assert main(["generate", *run.command, "--prompt", "1+1?", "--checkpoint", "best"]) == 0
    said = capsys.readouterr()
    assert said.out == "2\n" and f"step_{best['step']:08d}" in said.err
    elsewhere = ["digits", *run.overrides[:-1], f"output_dir={tmp_path}"]
    assert main(["generate", *elsewhere, "--prompt", "1+1?", "--checkpoint", "best"]) == 2
    assert "best.json does not exist: which checkpoint is the best is known of runs with train.eval_interval" in capsys.readouterr().err


def test_a_hugging_face_folder_comes_back_and_trains_on(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = ["digits", *run.overrides[:-1], f"output_dir={tmp_path / 'again'}"]
    assert main(["import-hf", *moved, "--folder", str(run.folder / "hf"), "--output", str(tmp_path / "again")]) == 0
    assert main(["export-hf", *moved, "--output", str(tmp_path / "hf")]) == 0
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "hf", run.folder / "hf"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    capsys.readouterr()
    assert main(["generate", *moved, "--prompt", "1+1?"]) == 0
    assert capsys.readouterr().out == "2\n"
    assert main(["import-hf", *moved, "--folder", str(run.folder / "hf"), "--output", str(tmp_path / "again")]) == 2, "never over a run"
    shorter = [text if not text.startswith("train.steps") else "train.steps=2" for text in moved]
    assert main(["train", *shorter, "data.eval_path=null", "train.eval_interval=0", "train.export_hf=false"]) == 0
    first = json.loads((tmp_path / "again" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] < 0.1, "it began with what the folder had learnt"


def test_export_merges_pretrained_folders(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Qwen2ForCausalLM(AutoConfig.from_pretrained(run.folder / "hf").text_config).save_pretrained(tmp_path / "language_model")
    start = ["digits", *run.overrides[:-1], f"output_dir={tmp_path / 'none'}", f"model.foundation.pretrained={tmp_path / 'language_model'}"]
    assert main(["export-hf", *start, "--output", str(tmp_path / "merged")]) == 0
    said = capsys.readouterr().err
    assert "merging foundation" in said
    assert "not trained: image_encoder, image_projector" in said
    part, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("language_model", "merged"))
    assert all(torch.equal(merged[f"language_model.{name}"], part[name]) for name in part)


def test_where_a_missing_checkpoint_was_looked_for(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["generate", "--prompt", "1+1?"], ["evaluate"], ["export-hf", "--output", str(tmp_path / "hf")]):
        status = main([command[0], "digits", *run.overrides[:-1], f"output_dir={tmp_path / 'none'}", *command[1:]])
        assert status == 2
        assert str(tmp_path / "none") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--item", "photo.png"], "MODALITY=PATH"),
        (["--item", "image=nowhere.png"], "nowhere.png"),
        (["--item", "sound=a.wav"], "sound"),
        (["--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_bad_arguments_of_generate(run: Run, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *run.command, "--prompt", "What?", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_evaluate_without_questions(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *run.command, "data.eval_path=null", "train.eval_interval=0"]) == 2
    assert "--questions" in capsys.readouterr().err


def test_items_without_a_tag_come_first() -> None:
    prompt, items = tagged("A <image> and <sound>?", ["image=1.png", "image=2.png", "sound=a.wav"])
    assert prompt == "<image>A <image> and <sound>?"
    assert items == {"image": [Path("1.png"), Path("2.png")], "sound": [Path("a.wav")]}
    with pytest.raises(InputError, match="MODALITY=PATH"):
        tagged("?", ["=x"])
