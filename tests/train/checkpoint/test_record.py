"""A checkpoint belongs to one model and one run."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from saved_runs import record_of, trainer_of

from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.errors import CheckpointError
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint.folders import checkpoint_of_step
from loongforge_core.train.checkpoint.load import load_checkpoint, load_model
from loongforge_core.train.checkpoint.record import (
    RECORD_FILE,
    differences,
    model_of,
    numbers_of,
    read_record,
    require_model,
    require_numbers,
)

Compose = Callable[..., Composition]

pytestmark = pytest.mark.usefixtures("one_process")


@dataclass(frozen=True)
class Recorded:
    """A run, and the folder of a checkpoint of which there is the record alone: nothing else of it is read here."""

    composition: Composition
    data: TrainingData
    folder: Path


@pytest.fixture
def saved(compose: Compose, registry: Registry) -> Recorded:
    composition = compose("model.image_encoder.lr=1e-3")
    data, folder = TrainingData(composition, registry), checkpoint_of_step(Path(composition.run.output_dir), 3)
    folder.mkdir(parents=True)
    (folder / RECORD_FILE).write_text(record_of(composition, data, 3).to_json())
    return Recorded(composition, data, folder)


def test_another_model_is_refused_by_every_difference(saved: Recorded, compose: Compose, registry: Registry) -> None:
    other = compose("model.foundation.num_layers=3", "model.image_encoder.feature_layer=-2")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved.folder, trainer_of(other, registry))
    assert str(caught.value).splitlines()[1:] == [
        "  model.image_encoder.feature_layer: the checkpoint has -1, this run has -2",
        "  model.foundation.num_layers: the checkpoint has 2, this run has 3",
    ]
    with pytest.raises(CheckpointError, match=r"foundation\.num_layers: the checkpoint has 2, this run has 3"):
        load_model(saved.folder, [OmniModelProvider(composition=other, registry=registry)()], other)


def test_a_field_that_a_component_has_got_since_has_its_default(saved: Recorded, compose: Compose) -> None:
    """A checkpoint of an earlier release does not know of it; one in which it is not the default is of another model still."""
    record = read_record(saved.folder)
    model = copy.deepcopy(dict(record.model))
    del model["model"]["foundation"]["mrope_section"], model["model"]["image_encoder"]["feature_layer"]
    require_model(replace(record, model=model), saved.composition, saved.folder)
    with pytest.raises(CheckpointError, match=r"image_encoder\.feature_layer: the checkpoint has -1, this run has -2"):
        require_model(replace(record, model=model), compose("model.image_encoder.feature_layer=-2"), saved.folder)
    del model["model"]["foundation"]["num_layers"]
    with pytest.raises(CheckpointError, match=r"foundation\.num_layers: the checkpoint has .*not there"):
        require_model(replace(record, model=model), saved.composition, saved.folder)


def test_a_length_that_changes_rotary_positions_makes_another_model(compose: Compose) -> None:
    """Within `max_position_embeddings` the base is as published; beyond, dynamic scaling follows `train.seq_length`."""
    scaled = ("model.foundation.rotary_scaling={type: dynamic, factor: 2.0}", "model.foundation.max_position_embeddings=64")
    short, full, long, longer = (model_of(compose(*scaled, f"train.seq_length={length}")) for length in (32, 64, 128, 256))
    assert short == full
    assert [line.split(":")[0] for line in differences(full, long)] == ["  model.by train.seq_length"]
    assert [line.split(":")[0] for line in differences(long, longer)] == ["  model.by train.seq_length.rotary_base"]
    unscaled = (model_of(compose(f"train.seq_length={length}")) for length in (32, 128))
    assert next(unscaled) == next(unscaled)


def test_another_tokenizer_makes_another_model(saved: Recorded, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(str(saved.composition.run.tokenizer), tokenizer)
    run = saved.composition.run.model_copy(update={"tokenizer": str(tokenizer)})
    moved = replace(saved.composition, run=run)
    assert model_of(moved) == model_of(saved.composition)  # what it says counts, not where it lies
    (tokenizer / "chat_template.jinja").write_text("{{ messages }}")
    assert model_of(moved)["tokenizer"] != model_of(saved.composition)["tokenizer"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.steps=16", "train.steps: the checkpoint has 8, this run has 16"),
        ("train.global_batch_size=16", "train.global_batch_size: the checkpoint has 8, this run has 16"),
        ("train.seed=5", "train.seed: the checkpoint has 1, this run has 5"),
        ("data.shuffle=false", "data.shuffle: the checkpoint has true, this run has false"),
        ("data.augment.image.stretch=0.5", "data.augment.image.stretch: the checkpoint has 0.15, this run has 0.5"),
        ("model.image_encoder.lr=2e-3", "model.image_encoder.lr: the checkpoint has 0.001, this run has 0.002"),
        ("model.foundation.freeze=true", "model.foundation.freeze: the checkpoint has false, this run has true"),
    ],
)
def test_settings_that_change_numbers_are_refused(saved: Recorded, compose: Compose, override: str, line: str) -> None:
    changed = compose("model.image_encoder.lr=1e-3", "train.micro_batch_size=2", "train.save_interval=1", override)
    with pytest.raises(CheckpointError) as caught:
        require_numbers(read_record(saved.folder), numbers_of(changed, saved.data), saved.folder)
    assert str(caught.value).splitlines()[1:-1] == [f"  {line}"]


def test_another_data_file_is_noticed(saved: Recorded, data_file: Path, compose: Compose, registry: Registry, tmp_path: Path) -> None:
    longer = data_file.with_name("longer.jsonl")
    longer.write_text(data_file.read_text() * 2)
    composition = compose("model.image_encoder.lr=1e-3", f"data.path={longer}")
    with pytest.raises(CheckpointError, match=r"data\.samples: the checkpoint has 40, this run has 80"):
        require_numbers(read_record(saved.folder), numbers_of(composition, TrainingData(composition, registry)), saved.folder)


def test_a_data_file_of_the_same_size_is_noticed(saved: Recorded, data_file: Path, compose: Compose, registry: Registry) -> None:
    edited, moved = data_file.with_name("edited.jsonl"), data_file.with_name("moved.jsonl")
    edited.write_text(data_file.read_text().replace("seventeen", "seventeem", 1))
    moved.write_text(data_file.read_text())
    assert edited.stat().st_size == data_file.stat().st_size
    for path, lines in ((moved, 0), (edited, 1)):
        composition = compose("model.image_encoder.lr=1e-3", f"data.path={path}")
        found = list(differences(read_record(saved.folder).numbers, numbers_of(composition, TrainingData(composition, registry))))
        assert len(found) == lines and all("data.sha256 of path" in line for line in found)
