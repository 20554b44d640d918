"""The digits' model, narrower, on a data file of a few questions with no, one and two images and answers of unequal lengths."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loongforge_core.config.check import load_composition
from loongforge_core.config.composition import Composition
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry import Registry

QUESTIONS = (
    ("Read.", "7", 1),
    ("Read this one, please.", "seventeen", 1),
    ("Sum?", "12", 2),
    ("And the sum of these two?", "three", 2),
    ("1+1?", "2", 0),
    ("What do I ask without any image?", "nothing at all", 0),
    ("2+2?", "4", 0),
    ("Add.", "nought", 2),
)
NARROW = (
    "model.image_encoder.hidden_size=16",
    "model.image_encoder.ffn_hidden_size=32",
    "model.image_encoder.num_attention_heads=2",
    "model.foundation.hidden_size=16",
    "model.foundation.ffn_hidden_size=32",
    "train.global_batch_size=8",
    "train.micro_batch_size=8",
    "train.steps=8",
    "train.lr=4e-3",
    "train.lr_warmup_steps=2",
    "train.export_hf=false",
    "data.prepare=null",
    "data.eval_path=null",
)

Compose = Callable[..., Composition]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    lines = []
    for number in range(40):
        question, answer, images = QUESTIONS[number % len(QUESTIONS)]
        names = [f"{number}_{image}.png" for image in range(images)]
        for name in names:
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name)
        content = "<image>" * images + question
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages, "images": names}))
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def compose(registry: Registry, data_file: Path, tmp_path: Path) -> Compose:
    """The composition with some settings changed; runs go into this test's own folder."""

    def compose(*overrides: str) -> Composition:
        settings = [*NARROW, f"data.path={data_file}", f"output_dir={tmp_path / 'run'}", *overrides]
        return load_composition("digits", settings, registry=registry)

    return compose


@pytest.fixture
def one_process() -> Iterator[None]:
    with single_process():
        yield
