"""A model that sees and hears at once: its data, and a few steps with an image alone, a sound alone, both and neither."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from loongforge_models.digits.prepare import split
from loongforge_models.digits_and_tones.prepare import prepare
from loongforge_models.tones.questions import some_sounds
from sklearn.datasets import load_digits

from loongforge_core.config.check import load_composition
from loongforge_core.data.collate import collate
from loongforge_core.data.training_data import TrainingData
from loongforge_core.model.batch import Batch
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry import Registry
from loongforge_core.testing.layouts import Layout, check_layouts, trainer_in

LABELS = [int(label) for label in load_digits().target]
BEEPS = {f"sounds/{sound.name}.wav": sound.beeps for part in ("train", "test") for sound in some_sounds(part, melodies=(), beeps=800)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("both") / "data"
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> TrainingData:
    registry = Registry.discover()
    overrides = [f"data.path={folder}/train.jsonl", f"data.eval_path={folder}/test.jsonl", "train.lr_warmup_steps=0", "train.steps=12"]
    overrides += ["train.adam_eps=1e-5"]  # where a gradient is next to nothing, rounding would decide a layout's step
    return TrainingData(load_composition("digits_and_tones", overrides, registry=registry), registry)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_right_and_items_exist(folder: Path) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        for line in lines(folder / name):
            question, answer = (message["content"] for message in line["messages"])
            images, audios = line.get("images", []), line.get("audios", [])
            assert all((folder / item).exists() for item in (*images, *audios))
            assert (question.count("<image>"), question.count("<audio>")) == (len(images), len(audios))
            assert line["kind"] == {(1, 1): "both", (1, 0): "digit", (0, 1): "beeps", (0, 0): "text"}[len(images), len(audios)]
            summands = [*(LABELS[int(Path(image).stem)] for image in images), *(BEEPS[audio] for audio in audios)]
            assert answer == str(sum(summands or map(int, question.removesuffix("?").split("+"))))


def test_held_out_items_occur_in_no_training_line(folder: Path) -> None:
    train, test = ({item for line in lines(folder / name) for item in items(line)} for name in ("train.jsonl", "test.jsonl"))
    assert not train & test
    assert {item for item in test if item.startswith("images")} == {f"images/{number:04d}.png" for number in split(LABELS).held_out}


def items(line: dict[str, Any]) -> Iterable[str]:
    return (*line.get("images", []), *line.get("audios", []))


def test_kinds_are_mixed(folder: Path) -> None:
    train, test = (lines(folder / name) for name in ("train.jsonl", "test.jsonl"))
    assert Counter(line["kind"] for line in train) == {"both": 5000, "digit": 2500, "beeps": 1500, "text": 1000}
    assert Counter(line["kind"] for line in test) == {"both": 300, "digit": 360, "beeps": 200, "text": 100}


KINDS = ("digit", "beeps", "both", "text")


def micro_batches(data: TrainingData) -> dict[str, Batch]:
    """One of each kind alone, so that encoders are absent in turn, and one in which all kinds are mixed."""
    samples: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for index in range(200):
        sample = data.maker.sample(data.conversations[index])
        samples[sample.kind].append(sample)
    batches = {kind: collate(found[:6]) for kind, found in samples.items()}
    return {**batches, "mixed": collate([found[6] for found in samples.values()])}


def test_an_image_alone_a_sound_alone_both_and_neither(data: TrainingData) -> None:
    batches = micro_batches(data)
    assert {kind: set(batch.items) for kind, batch in batches.items()} == {
        "digit": {"image"},
        "beeps": {"audio"},
        "both": {"image", "audio"},
        "text": set(),
        "mixed": {"image", "audio"},
    }
    (done,) = run_ranks(few_steps, 1, data.maker.composition, list(batches.values()))
    losses, moved = done
    assert losses[-1] < 0.6 * losses[0], losses
    assert moved == dict.fromkeys(("image_encoder", "image_projector", "audio_encoder", "audio_projector", "foundation"), True)


def few_steps(composition: Any, batches: list[Batch]) -> tuple[list[float], dict[str, bool]]:
    """Losses of steps on all micro-batches, and of which slots every trained weight has moved, and the table of sinusoids has not."""
    trainer = trainer_in(composition, Layout())
    (model,) = trainer.models
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = [trainer.step(batches).loss for _ in range(12)]
    moved = {slot: True for slot in model.components()}
    for slot, component in model.components().items():
        own = {id(parameter) for parameter in component.parameters()}
        for name, parameter in model.named_parameters():
            if id(parameter) in own:
                moved[slot] &= torch.equal(before[name], parameter) != parameter.requires_grad
    return losses, moved


def test_both_encoders_share_the_tensor_ranks(data: TrainingData) -> None:
    batches = micro_batches(data)
    layout = Layout(tensor=2, encoders={"audio_encoder": 2})
    assert check_layouts(data.maker.composition, [layout], [[batches["mixed"], batches["beeps"]]])
