"""Damaged checkpoints are refused, by an error that names folder and file; damaged Hugging Face folders, by one that names them, or read.

A flipped bit of a weight is a weight too, where nobody knows which it was: in a Hugging Face folder, and in checkpoints that were written
before they had digests.
"""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mutations import damaged

from loongforge_core.config.check import load_composition
from loongforge_core.config.composition import Composition
from loongforge_core.errors import InputError
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.train.checkpoint.load import load_checkpoint
from loongforge_core.train.checkpoint.record import RECORD_FILE, Record, model_of, read_record
from loongforge_core.train.checkpoint.save import save_checkpoint
from loongforge_core.train.step import Trainer, build_trainer
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.load import import_model

SECONDS = 5
CHANGES = (
    *("data.prepare=null", "data.path=null", "data.eval_path=null", "train.seq_length=64", "model.image_encoder.num_layers=1"),
    *("model.foundation.num_layers=1", "model.foundation.hidden_size=16", "model.foundation.ffn_hidden_size=16"),
    *("model.image_encoder.hidden_size=16", "model.image_encoder.ffn_hidden_size=16"),
)


@dataclass(frozen=True)
class Model:
    composition: Composition
    registry: Registry
    trainer: Trainer
    folder: Path
    """In the published format."""
    checkpoint: Path

    def import_from(self, folder: Path) -> None:
        import_model(folder, self.trainer.models[0].components(), self.composition, self.registry)

    def resume_from(self, folder: Path) -> None:
        load_checkpoint(folder, self.trainer)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    registry, home = Registry.discover(), tmp_path_factory.mktemp("model")
    composition = load_composition("digits", [*CHANGES, f"output_dir={home}"], registry=registry)
    logging.getLogger("dcp_logger").setLevel(logging.WARNING)  # torch says what it loads, a line each
    with single_process():
        trainer = build_trainer(composition, [OmniModelProvider(composition=composition, registry=registry)()])
        export_hf(trainer.models[0].components(), composition, registry, home / "hf", tokenizer=composition.run.tokenizer)
        record = Record(step=1, model=model_of(composition), numbers={}, plugins=())
        yield Model(composition, registry, trainer, home / "hf", save_checkpoint(home, trainer, record))


def spoilt(whole: Path, copy: Path, draw: random.Random) -> Path:
    """The file of a copy that was damaged, mostly near its beginning, where it says what is in it."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    file = draw.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
    content = file.read_bytes()
    length = len(content) if draw.random() < 0.3 else min(len(content), 4000)
    file.write_bytes(damaged(content[:length], draw, bits=draw.random() < 0.5) + content[length:])
    return file


def refused(read: Callable[[Path], None], folder: Path) -> str:
    """What is said of it; nothing where it is read."""
    begin = time.process_time()
    try:
        read(folder)
    except InputError as error:
        assert str(folder) in str(error)
        return str(error)
    finally:
        assert time.process_time() - begin < SECONDS
    return ""


@pytest.mark.parametrize("kind", ["published", "checkpoint"])
def test_whole_folders_are_read(kind: str, model: Model, tmp_path: Path) -> None:
    shutil.copytree(model.folder if kind == "published" else model.checkpoint, tmp_path / "copy")
    assert not refused(model.import_from if kind == "published" else model.resume_from, tmp_path / "copy")


def test_a_damaged_published_folder(seeds: range, model: Model, tmp_path: Path) -> None:
    for seed in seeds:
        spoilt(model.folder, tmp_path / "copy", random.Random(seed))
        refused(model.import_from, tmp_path / "copy")


def test_a_damaged_checkpoint(seeds: range, model: Model, tmp_path: Path) -> None:
    for seed in seeds:
        file = spoilt(model.checkpoint, tmp_path / "copy", random.Random(seed))
        if said := refused(model.resume_from, tmp_path / "copy"):
            assert file.name in said
        else:
            assert is_equal(file, model.checkpoint / file.name), f"seed {seed}: {file.name} was read"


def is_equal(file: Path, whole: Path) -> bool:
    if file.name == RECORD_FILE:
        return read_record(file.parent) == read_record(whole.parent)
    return file.read_bytes() == whole.read_bytes()


def test_a_damaged_checkpoint_without_digests(seeds: range, model: Model, tmp_path: Path) -> None:
    """Megatron and torch see what they were not made for."""
    shutil.copytree(model.checkpoint, tmp_path / "whole")
    (tmp_path / "whole" / RECORD_FILE).write_text(replace(read_record(model.checkpoint), files={}).to_json())
    for seed in seeds:
        spoilt(tmp_path / "whole", tmp_path / "copy", random.Random(seed))
        refused(model.resume_from, tmp_path / "copy")
