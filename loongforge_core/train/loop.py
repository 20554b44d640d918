"""A run from beginning to end, or from its newest checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import distributed

from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.layers.interfaces import Component
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.bookkeeping import pieces
from loongforge_core.parallel.launch import agreed
from loongforge_core.registry.registry import Registry
from loongforge_core.train.checkpoint import load_checkpoint, load_model, newest_checkpoint, remove_old, remove_unfinished, save_checkpoint
from loongforge_core.train.metrics import Metrics
from loongforge_core.train.progress import Progress
from loongforge_core.train.record import Record, model_of, numbers_of, read_record, require_model, require_numbers
from loongforge_core.train.step import StepResult, Trainer, build_trainer
from loongforge_core.train.summary import trainable_table
from loongforge_core.weights.load import load_pretrained

__all__ = ["CONFIG_FILE", "PLUGINS_FILE", "TrainResult", "train"]

CONFIG_FILE = "config.yaml"
PLUGINS_FILE = "plugins.json"


@dataclass(frozen=True)
class TrainResult:
    """A run that has reached its last step."""

    models: Sequence[OmniCombinationModel]
    """The trained model; one part per virtual pipeline stage."""
    checkpoint: Path
    step: int
    last: StepResult | None
    """None where the run was finished already."""


@dataclass
class Run:
    """What the loop needs at every step."""

    composition: Composition
    trainer: Trainer
    data: TrainingData
    record: Record
    output_dir: Path
    progress: Progress


def train(composition: Composition, registry: Registry, *, progress: Progress | None = None) -> TrainResult:
    """Trains until `train.steps`, and goes on from the newest checkpoint in `output_dir` where there is one.

    All ranks call it, in Megatron's process groups (`parallel.launch.single_process`, `parallel.groups.initialise_groups`); rank 0 shows
    progress and writes. Raises an InputError for what is wrong with data, weights or checkpoint, LoongForgeError where numbers are no
    longer finite. Whatever ends it early leaves the last checkpoint as it was.
    """
    train = composition.run.train
    with contextlib.ExitStack() as stack:
        stream = None if distributed.get_rank() == 0 else stack.enter_context(open(os.devnull, "w"))
        shown = stack.enter_context(progress or Progress(steps=train.steps, log_interval=train.log_interval, stream=stream))
        run, step = prepare(composition, registry, shown)
        if step >= train.steps:
            shown.say(f"already finished: {step} steps are done; the checkpoint is in {run.output_dir}")
            return result(run, step, None)
        return result(run, train.steps, steps(run, first_step=step))


def result(run: Run, step: int, last: StepResult | None) -> TrainResult:
    checkpoint = agreed(lambda: newest_checkpoint(run.output_dir))
    assert checkpoint is not None
    run.trainer.gather_weights()  # from now on, ranks need not make the same passes
    return TrainResult(models=run.trainer.models, checkpoint=checkpoint, step=step, last=last)


# ---- before the first step


def prepare(composition: Composition, registry: Registry, progress: Progress) -> tuple[Run, int]:
    """Everything that a run needs, and the number of steps that are done already."""
    output_dir = Path(composition.run.output_dir)
    progress.doing("opening the data")
    data = TrainingData(composition, registry)
    checkpoint = agreed(lambda: newest_checkpoint(output_dir))
    record = Record(
        step=0,
        model=model_of(composition),
        numbers=numbers_of(composition, data),
        plugins=tuple(registry.fingerprint().splitlines()),
    )
    done = steps_done(checkpoint, composition, record) if checkpoint else 0
    progress.doing("building the model")
    fill = leave_to_checkpoint if checkpoint else partial(fill_with_folders, composition=composition, registry=registry, progress=progress)
    models = [OmniModelProvider(composition=composition, registry=registry, fill=fill)()]
    if checkpoint and not done:
        progress.doing(f"starting from {checkpoint}")
        load_model(checkpoint, models, composition)
    trainer = build_trainer(composition, models)  # copies the weights, so they are there before
    if done:
        progress.doing(f"going on from {checkpoint}")
        assert checkpoint
        load_checkpoint(checkpoint, trainer)
    progress.say(trainable_table(composition, models))
    if distributed.get_rank() == 0:
        output_dir.mkdir(parents=True, exist_ok=True)
        remove_unfinished(output_dir)
        describe(composition, record, output_dir)
    return Run(composition, trainer, data, record, output_dir, progress), done


def steps_done(checkpoint: Path, composition: Composition, ours: Record) -> int:
    """Those of the checkpoint. Raises CheckpointError where this run, which would record `ours`, cannot go on from it."""
    theirs = read_record(checkpoint)
    require_model(theirs, composition, checkpoint)
    if theirs.step:  # at step 0 it is weights alone, for any run to begin with
        require_numbers(theirs, ours.numbers, checkpoint)
    return theirs.step


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


# ---- the steps


def steps(run: Run, *, first_step: int) -> StepResult:
    """Trains from `first_step` to the end; the last step's result."""
    train, groups = run.composition.run.train, run.trainer.groups
    metrics = Metrics(run.output_dir, first_step=first_step) if distributed.get_rank() == 0 else None
    stream = run.data.stream(first_step, rank=groups.dp.rank(), size=groups.dp.size())
    run.progress.begin(first_step)
    try:
        for step in range(first_step + 1, train.steps + 1):
            start = time.perf_counter()
            last = run.trainer.step(next(stream))
            if metrics:
                metrics.write(step, last, seconds=time.perf_counter() - start)
            run.progress.advance(step, last.loss)
            if last.loss is None:
                run.progress.say(f"step {step}: no target token in the whole batch, so nothing was learned")
            if step == train.steps or (train.save_interval and step % train.save_interval == 0):
                save(run, step, metrics)
    finally:
        if metrics:
            metrics.close()
    return last


def save(run: Run, step: int, metrics: Metrics | None) -> None:
    if metrics:
        metrics.write_through()
    save_checkpoint(run.output_dir, run.trainer, replace(run.record, step=step))
    if distributed.get_rank() == 0:
        remove_old(run.output_dir, keep=run.composition.run.train.keep_checkpoints)
