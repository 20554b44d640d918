"""Hostile files (I7): nothing in YAML, checkpoints, weights, tokenizers and data is executed, fetched or followed out of its folder.

Each attack would leave a canary, an empty folder, or show a secret. Whoever meets the file is told in one message, with exit status 2.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import LINE, SECRET, STEP, Place
from PIL import Image

from loongforge_core.cli.main import main
from loongforge_core.config.check import load_composition
from loongforge_core.data.sample import SampleMaker
from loongforge_core.data.time_limit import time_limit
from loongforge_core.data.training_data import load_sample_maker
from loongforge_core.registry.registry import Registry


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound line, and its image."""
    folder = tmp_path_factory.mktemp("data")
    Image.new("L", (8, 8), 100).save(folder / "seven.png")
    (folder / "good.jsonl").write_text(json.dumps(LINE) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step of training on it: its checkpoint and its Hugging Face folder."""
    place = Place(data, tmp_path_factory.mktemp("run"))
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", "digits", *place.overrides(), "train.export_hf=true"]) == 0
    return place.folder / "out"


@pytest.fixture
def place(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attack").mkdir()
    found = Place(data, tmp_path / "attack")
    with time_limit(60.0):
        yield found
    assert not found.canary.exists()


@pytest.fixture(scope="module")
def maker(data: Path) -> SampleMaker:
    registry = Registry.discover()
    overrides = [*STEP, f"data.path={data / 'good.jsonl'}", f"output_dir={data / 'out'}"]
    return load_sample_maker(load_composition("digits", overrides, registry=registry), registry)
