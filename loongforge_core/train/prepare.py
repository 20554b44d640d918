"""What a run needs before its first step, and how many steps are done already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import distributed

from loongforge_core.config.composition import Composition
from loongforge_core.config.settings import TrainSettings
from loongforge_core.data.training_data import TrainingData, find_lines
from loongforge_core.errors import CheckpointError
from loongforge_core.generate.evaluate import Prediction
from loongforge_core.layers.interfaces import Component
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.bookkeeping import pieces
from loongforge_core.parallel.launch import agreed
from loongforge_core.registry.registry import Registry
from loongforge_core.train.checkpoint.folders import find_checkpoint, newest_checkpoint, prepare_folder
from loongforge_core.train.checkpoint.load import load_checkpoint, load_model
from loongforge_core.train.checkpoint.record import Record, model_of, numbers_of, read_record, require_model, require_numbers
from loongforge_core.train.checkpoint.save import expected_bytes
from loongforge_core.train.disk import shortage, writing
from loongforge_core.train.held_out import HeldOut
from loongforge_core.train.progress import Progress
from loongforge_core.train.skipped_steps import SkippedSteps
from loongforge_core.train.step import Trainer, build_trainer
from loongforge_core.train.summary import trainable_table
from loongforge_core.weights.load import load_pretrained

__all__ = ["CONFIG_FILE", "PLUGINS_FILE", "Run", "checkpoints_at_once", "prepare"]

CONFIG_FILE = "config.yaml"
PLUGINS_FILE = "plugins.json"


@dataclass
class Run:
    """What the loop needs at every step."""

    composition: Composition
    trainer: Trainer
    data: TrainingData
    record: Record
    output_dir: Path
    progress: Progress
    held_out: HeldOut | None
    """None where nothing is evaluated before the end."""
    skipped: SkippedSteps
    predictions: Sequence[Prediction] | None = None
    """The answers of the evaluation after the last step."""


def prepare(composition: Composition, registry: Registry, progress: Progress) -> tuple[Run, int]:
    """Everything that a run needs, and the number of steps that are done already."""
    output_dir = Path(composition.run.output_dir)
    progress.doing("opening the data")
    find_lines(composition.run)
    data = TrainingData(composition, registry)
    checkpoint = agreed(lambda: newest_checkpoint(output_dir))
    record = Record(
        step=0,
        model=model_of(composition),
        numbers=numbers_of(composition, data),
        plugins=tuple(registry.fingerprint().splitlines()),
    )
    held_out = HeldOut.of(composition, data.maker)
    done, skipped, start = 0, SkippedSteps(), None
    if checkpoint:
        begun = record_to_go_on_with(checkpoint, composition, record)
        done, skipped, start = begun.step, SkippedSteps.from_record(begun.skipped), None if begun.step else checkpoint
    elif composition.run.train.start_from:
        start = agreed(partial(start_of, composition))
    prepare_folder(output_dir)
    progress.doing("building the model")
    folders = partial(fill_with_folders, composition=composition, registry=registry, progress=progress)
    fill = leave_to_checkpoint if checkpoint or start else folders
    models = [OmniModelProvider(composition=composition, registry=registry, fill=fill)()]
    if start:
        progress.doing(f"starting from {start}")
        load_model(start, models, composition)
    trainer = build_trainer(composition, models)  # copies the weights, so they are there before
    if done:
        progress.doing(f"going on from {checkpoint}")
        assert checkpoint
        load_checkpoint(checkpoint, trainer)
    progress.say(trainable_table(composition, models))
    if warning := shortage(output_dir, each=expected_bytes(composition, models), number=checkpoints_at_once(composition.run.train, done)):
        progress.say(warning)
    if distributed.get_rank() == 0:
        with writing(output_dir / CONFIG_FILE, last=lambda: checkpoint):
            describe(composition, record, output_dir)
    return Run(composition, trainer, data, record, output_dir, progress, held_out, skipped), done


def record_to_go_on_with(checkpoint: Path, composition: Composition, ours: Record) -> Record:
    """The checkpoint's. Raises CheckpointError where this run, which would record `ours`, cannot go on from it."""
    theirs = read_record(checkpoint)
    require_model(theirs, composition, checkpoint)
    if theirs.step:  # at step 0 it is weights alone, for any run to begin with
        require_numbers(theirs, ours.numbers, checkpoint)
    elif start_from := composition.run.train.start_from:
        raise CheckpointError(f"{checkpoint} has weights to begin with, and so has train.start_from, {start_from}: leave one of them out")
    return theirs


def start_of(composition: Composition) -> Path:
    """The checkpoint of another run whose weights this one begins with. Raises CheckpointError where it is none of this model."""
    assert composition.run.train.start_from
    found = find_checkpoint(Path(composition.run.train.start_from))
    require_model(read_record(found), composition, found)
    return found


def checkpoints_at_once(train: TrainSettings, done: int) -> int:
    """How many there will be at most that are written from now on."""
    left = train.steps - done
    saves = -(-left // train.save_interval) if train.save_interval else min(left, 1)
    saves += -(-left // train.eval_interval) if train.eval_interval else 0  # each may be the best
    if not train.keep_checkpoints:
        return saves
    retained = left // train.save_retain_interval if train.save_retain_interval else 0
    return min(saves, train.keep_checkpoints + retained + 1 + bool(train.eval_interval))


def leave_to_checkpoint(components: Mapping[str, Component[Any]]) -> frozenset[str]:
    """No tensor needs an initial value: a checkpoint has them all, but for the rows that pad a vocabulary, which are zero."""
    names = set()
    for slot, component in components.items():
        for piece in pieces(component):
            piece.tensor.zero_()
            names.add(f"{slot}.{piece.name}")
    return frozenset(names)


def fill_with_folders(
    components: Mapping[str, Component[Any]], *, composition: Composition, registry: Registry, progress: Progress
) -> frozenset[str]:
    """The slots that name a `pretrained` folder begin with it."""
    folders = {name: slot.settings.pretrained for name, slot in composition.slots.items() if slot.settings.pretrained}
    if folders:
        progress.doing(", ".join(f"{name} starts from {folder}" for name, folder in folders.items()))
    return load_pretrained(components, composition, registry)


def describe(composition: Composition, record: Record, output_dir: Path) -> None:
    """The configuration, complete and loadable again, and the plugins that it was run with."""
    text = yaml.safe_dump(dict(composition.resolved), sort_keys=False, allow_unicode=True)
    (output_dir / CONFIG_FILE).write_text(text, encoding="utf-8")
    versions = {"megatron_core": record.megatron_core, "torch": record.torch, "plugins": list(record.plugins)}
    (output_dir / PLUGINS_FILE).write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
