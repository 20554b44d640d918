"""A checkpoint brings a run back exactly, belongs to one model and one run, and executes nothing."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import dist_checkpointing
from torch.distributed.checkpoint.filesystem import SerializationFormat

from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.errors import CheckpointError, LoongForgeError
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.repairs import writing_in_this_process
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint import save as saving
from loongforge_core.train.checkpoint.folders import checkpoints, find_checkpoint, newest_checkpoint, remove_old, remove_unfinished
from loongforge_core.train.checkpoint.load import load_checkpoint, load_model, reads_common_state_of_0_19
from loongforge_core.train.checkpoint.record import (
    FORMAT,
    RECORD_FILE,
    Record,
    differences,
    model_of,
    numbers_of,
    read_record,
    require_model,
    require_numbers,
)
from loongforge_core.train.checkpoint.refuse_code import MetadataUnpickler
from loongforge_core.train.checkpoint.save import save_checkpoint
from loongforge_core.train.checkpoint.state import state_of
from loongforge_core.train.step import Trainer, build_trainer

Compose = Callable[..., Composition]

pytestmark = pytest.mark.usefixtures("one_process")


@dataclass(frozen=True)
class Saved:
    composition: Composition
    trainer: Trainer
    data: TrainingData
    folder: Path


def trainer_of(composition: Composition, registry: Registry) -> Trainer:
    return build_trainer(composition, [OmniModelProvider(composition=composition, registry=registry)()])


def record_of(composition: Composition, data: TrainingData, step: int) -> Record:
    return Record(step=step, model=model_of(composition), numbers=numbers_of(composition, data), plugins=("a plugin 1.0",))


@pytest.fixture
def saved(compose: Compose, registry: Registry) -> Saved:
    """After three steps."""
    return save(compose("model.image_encoder.lr=1e-3"), registry)


def save(composition: Composition, registry: Registry) -> Saved:
    trainer, data = trainer_of(composition, registry), TrainingData(composition, registry)
    for step in range(3):
        trainer.step(data.batches(step))
    folder = save_checkpoint(Path(composition.run.output_dir), trainer, record_of(composition, data, 3))
    return Saved(composition, trainer, data, folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_goes_on_exactly(compose: Compose, registry: Registry, precision: str) -> None:
    saved = save(compose(f"train.precision={precision}", "model.image_encoder.lr=1e-3"), registry)
    resumed = trainer_of(saved.composition, registry)
    assert load_checkpoint(saved.folder, resumed).step == 3
    for step in range(3, 7):
        batches = saved.data.batches(step)
        assert resumed.step(batches) == saved.trainer.step(batches)
    assert all(map(torch.equal, saved.trainer.models[0].parameters(), resumed.models[0].parameters()))


def test_every_parameter_has_a_step_of_its_own(saved: Saved, registry: Registry) -> None:
    """Megatron loads one for all; AdamW would then count it once per parameter."""
    resumed = trainer_of(saved.composition, registry)
    load_checkpoint(saved.folder, resumed)
    (optimizer,) = resumed.optimizer.chained_optimizers
    steps = [state["step"] for state in optimizer.optimizer.state.values()]
    assert len({id(step) for step in steps}) == len(steps) == len(list(optimizer.get_parameters()))
    assert {float(step) for step in steps} == {3.0}


def test_the_model_alone_can_be_loaded(saved: Saved, registry: Registry) -> None:
    model = OmniModelProvider(composition=saved.composition, registry=registry)()
    assert not all(map(torch.equal, model.parameters(), saved.trainer.models[0].parameters()))
    load_model(saved.folder, [model], saved.composition)
    assert all(map(torch.equal, model.parameters(), saved.trainer.models[0].parameters()))


def test_another_model_is_refused_by_every_difference(saved: Saved, compose: Compose, registry: Registry) -> None:
    other = compose("model.foundation.num_layers=3", "model.image_encoder.feature_layer=-2")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved.folder, trainer_of(other, registry))
    assert str(caught.value).splitlines()[1:] == [
        "  model.image_encoder.feature_layer: the checkpoint has -1, this run has -2",
        "  model.foundation.num_layers: the checkpoint has 2, this run has 3",
    ]
    with pytest.raises(CheckpointError, match=r"foundation\.num_layers: the checkpoint has 2, this run has 3"):
        load_model(saved.folder, [OmniModelProvider(composition=other, registry=registry)()], other)


def test_a_field_that_a_component_has_got_since_has_its_default(saved: Saved, compose: Compose) -> None:
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


def test_another_tokenizer_makes_another_model(saved: Saved, tmp_path: Path) -> None:
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
def test_settings_that_change_numbers_are_refused(saved: Saved, compose: Compose, override: str, line: str) -> None:
    changed = compose("model.image_encoder.lr=1e-3", "train.micro_batch_size=2", "train.save_interval=1", override)
    with pytest.raises(CheckpointError) as caught:
        require_numbers(read_record(saved.folder), numbers_of(changed, saved.data), saved.folder)
    assert str(caught.value).splitlines()[1:-1] == [f"  {line}"]


def test_another_data_file_is_noticed(saved: Saved, data_file: Path, compose: Compose, registry: Registry, tmp_path: Path) -> None:
    longer = data_file.with_name("longer.jsonl")
    longer.write_text(data_file.read_text() * 2)
    composition = compose("model.image_encoder.lr=1e-3", f"data.path={longer}")
    with pytest.raises(CheckpointError, match=r"data\.samples: the checkpoint has 40, this run has 80"):
        require_numbers(read_record(saved.folder), numbers_of(composition, TrainingData(composition, registry)), saved.folder)


def test_a_data_file_of_the_same_size_is_noticed(saved: Saved, data_file: Path, compose: Compose, registry: Registry) -> None:
    edited, moved = data_file.with_name("edited.jsonl"), data_file.with_name("moved.jsonl")
    edited.write_text(data_file.read_text().replace("seventeen", "seventeem", 1))
    moved.write_text(data_file.read_text())
    assert edited.stat().st_size == data_file.stat().st_size
    for path, lines in ((moved, 0), (edited, 1)):
        composition = compose("model.image_encoder.lr=1e-3", f"data.path={path}")
        found = list(differences(read_record(saved.folder).numbers, numbers_of(composition, TrainingData(composition, registry))))
        assert len(found) == lines and all("data.sha256 of path" in line for line in found)


# ---- complete or invisible


def test_an_unfinished_checkpoint_is_invisible(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    output = Path(saved.composition.run.output_dir)
    monkeypatch.setattr(saving, "write_through", fail)
    with pytest.raises(LoongForgeError, match=f"step_00000004 could not be written: no space left.*as it was: {saved.folder}"):
        save_checkpoint(output, saved.trainer, record_of(saved.composition, saved.data, 4))
    assert checkpoints(output) == {3: saved.folder} and newest_checkpoint(output) == saved.folder
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step_00000003"]


def test_an_old_checkpoint_is_complete_until_it_is_invisible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Path, **__: object) -> None:
        raise KeyboardInterrupt

    for step in (2, 4, 6):
        (tmp_path / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    remove_old(tmp_path, keep=0)
    assert list(checkpoints(tmp_path)) == [2, 4, 6]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", stop)
        remove_old(tmp_path, keep=1)
    assert list(checkpoints(tmp_path)) == [4, 6]
    remove_unfinished(tmp_path)
    remove_old(tmp_path, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000006"]


def test_the_last_are_kept_and_those_of_every_so_many_steps(tmp_path: Path) -> None:
    for step in range(2, 19, 2):
        (tmp_path / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    remove_old(tmp_path, keep=2, retain_interval=6, spared=[10])
    assert list(checkpoints(tmp_path)) == [6, 10, 12, 16, 18]


def test_the_newest_is_found_from_anywhere_in_a_run(saved: Saved, tmp_path: Path) -> None:
    output = Path(saved.composition.run.output_dir)
    save_checkpoint(output, saved.trainer, record_of(saved.composition, saved.data, 12))
    assert find_checkpoint(output) == find_checkpoint(output / "checkpoints") == output / "checkpoints" / "step_00000012"
    assert find_checkpoint(saved.folder) == saved.folder
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)


def without_digests(folder: Path) -> None:
    """As an earlier release wrote it, or whoever means harm: what follows is seen by Megatron, and by what guards it."""
    (folder / RECORD_FILE).write_text(replace(read_record(folder), files={}).to_json())


@pytest.mark.parametrize("damage", ["no record", "broken record", "later format", "missing file", "truncated file"])
def test_a_damaged_checkpoint_is_an_error_that_names_it(saved: Saved, registry: Registry, damage: str) -> None:
    without_digests(saved.folder)
    described = saved.folder / RECORD_FILE
    (largest,) = sorted(saved.folder.glob("*.distcp"), key=lambda path: path.stat().st_size)[-1:]
    if damage == "no record":
        described.unlink()
    elif damage == "broken record":
        described.write_text(described.read_text()[:-20])
    elif damage == "later format":
        described.write_text(json.dumps({**json.loads(described.read_text()), "format": FORMAT + 1}))
    elif damage == "missing file":
        largest.unlink()
    else:
        os.truncate(largest, largest.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="step_00000003"):
        load_checkpoint(saved.folder, trainer_of(saved.composition, registry))


def test_a_checkpoint_of_a_later_megatron_says_what_to_install(saved: Saved, registry: Registry) -> None:
    """Megatron-Core 0.19 writes no common.pt and reads both forms; 0.16 reads its own only."""
    without_digests(saved.folder)
    if (saved.folder / "common.pt").exists():
        (saved.folder / "common.pt").unlink()
        with pytest.raises(CheckpointError, match=r"install megatron-core>=0\.19"):
            load_checkpoint(saved.folder, trainer_of(saved.composition, registry))
    else:
        assert reads_common_state_of_0_19()


# ---- nothing in it is executed


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("where", [".metadata", "common.pt", "an entry"])
def test_code_in_a_checkpoint_is_refused(saved: Saved, registry: Registry, tmp_path: Path, where: str) -> None:
    mark = tmp_path / "executed"
    without_digests(saved.folder)
    if where == ".metadata":
        (saved.folder / where).write_bytes(pickle.dumps(Payload(mark)))
    elif where == "common.pt":
        torch.save({"a": Payload(mark)}, saved.folder / where)
    else:
        state = state_of(saved.trainer)
        state["x"] = dist_checkpointing.ShardedObject("x", Payload(mark), (1,), (0,))
        shutil.rmtree(saved.folder)
        saved.folder.mkdir()
        with writing_in_this_process():
            dist_checkpointing.save(state, str(saved.folder))
        (saved.folder / RECORD_FILE).write_text(record_of(saved.composition, saved.data, 3).to_json())
    with pytest.raises(CheckpointError, match="cannot be loaded safely"):
        load_checkpoint(saved.folder, trainer_of(saved.composition, registry))
    assert not mark.exists()


class AskedFor:
    """Pickled as early releases of Python 3.11 pickle the members of enumerations: by `getattr`."""

    def __init__(self, owner: Any, name: str) -> None:
        self.asked = owner, name

    def __reduce__(self) -> Any:
        return getattr, self.asked


def test_a_member_of_an_enumeration_may_be_asked_for_and_nothing_else() -> None:
    read = MetadataUnpickler(io.BytesIO(pickle.dumps(AskedFor(SerializationFormat, "SAFETENSORS"))))  # torch's own
    assert read.load() is SerializationFormat.SAFETENSORS
    for owner, name in ((SerializationFormat, "__class__"), (torch.Size, "count")):
        with pytest.raises(pickle.UnpicklingError, match=f"it asks .* for '{name}'"):
            MetadataUnpickler(io.BytesIO(pickle.dumps(AskedFor(owner, name)))).load()
