"""A run from beginning to end, or from its newest checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import distributed

from loongforge_core.config.composition import Composition
from loongforge_core.generate.evaluate import Prediction
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.parallel.launch import agreed
from loongforge_core.registry.registry import Registry
from loongforge_core.train.checkpoint.folders import newest_checkpoint
from loongforge_core.train.metrics import METRICS_FILE
from loongforge_core.train.notice import noticing
from loongforge_core.train.prepare import Run, prepare
from loongforge_core.train.progress import Progress
from loongforge_core.train.result import StepResult
from loongforge_core.train.saving import catch_up, evaluate, metrics_of, recording, save, save_once
from loongforge_core.train.skipped_lines import SkippedLines, all_skipped

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """A run that has reached its last step, or was told to end before."""

    models: Sequence[OmniCombinationModel]
    """The trained model; one part per virtual pipeline stage."""
    checkpoint: Path
    step: int
    last: StepResult | None
    """None where the run was finished already."""
    ended_by: signal.Signals | None = None
    """The signal that told the run to end, where one did (`notice.py`); it may have come in the last step."""
    predictions: Sequence[Prediction] | None = None
    """Answers to the held-out questions by the last weights, where these were evaluated just now."""


def train(composition: Composition, registry: Registry, *, progress: Progress | None = None) -> TrainResult:
    """Trains until `train.steps`, and goes on from the newest checkpoint in `output_dir` where there is one.

    All ranks call it, in Megatron's process groups (`parallel.launch.single_process`, `parallel.groups.initialise_groups`); rank 0 shows
    progress and writes. Raises an InputError for what is wrong with data, weights, checkpoint or output folder, LoongForgeError where
    numbers are no longer finite, or nothing can be written any more. Whatever ends it early leaves the last checkpoint as it was. On
    SIGTERM and SIGUSR1 it saves and returns: see notice.py.
    """
    train = composition.run.train
    with contextlib.ExitStack() as stack:
        stream = None if distributed.get_rank() == 0 else stack.enter_context(open(os.devnull, "w"))
        shown = stack.enter_context(progress or Progress(steps=train.steps, log_interval=train.log_interval, stream=stream))
        run, step = prepare(composition, registry, shown)
        if step >= train.steps:
            shown.say(f"already finished: {step} steps are done; the checkpoint is in {run.output_dir}")
            if run.held_out:
                catch_up(run, step, stack.enter_context(metrics_of(run, step)))
            return result(run, step, None)
        step, last, ended_by = steps(run, first_step=step)
        ended = result(run, step, last, ended_by)
        if ended_by:
            shown.say(
                f"stopped by {ended_by.name} after step {step} of {train.steps}; saved in {ended.checkpoint}; the same command goes on"
            )
        return ended


def result(run: Run, step: int, last: StepResult | None, ended_by: signal.Signals | None = None) -> TrainResult:
    checkpoint = agreed(lambda: newest_checkpoint(run.output_dir))
    assert checkpoint is not None
    run.trainer.gather_weights()  # from now on, ranks need not make the same passes
    return TrainResult(
        models=run.trainer.models, checkpoint=checkpoint, step=step, last=last, ended_by=ended_by, predictions=run.predictions
    )


def steps(run: Run, *, first_step: int) -> tuple[int, StepResult, signal.Signals | None]:
    """Trains from `first_step` to the end, or until a signal says so; the number of the last step, its result, and that signal."""
    train, groups = run.composition.run.train, run.trainer.groups
    stream = run.data.stream(first_step, rank=groups.dp.rank(), size=groups.dp.size())
    run.progress.begin(first_step)
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(metrics_of(run, first_step))
        notice = stack.enter_context(noticing())
        lines = SkippedLines(run.output_dir, first_step=first_step) if metrics else None
        catch_up(run, first_step, metrics)
        for step in range(first_step + 1, train.steps + 1):
            start = time.perf_counter()
            prepared = next(stream)
            last = run.trainer.step(prepared.batches)
            skipped = all_skipped(prepared.skipped, groups.dp) if run.composition.run.data.on_error == "skip" else []
            if metrics and lines is not None:
                with recording(run):
                    lines.add(step, skipped)
                    metrics.write(step, last, lines_skipped=len(skipped), seconds=time.perf_counter() - start)
            run.progress.advance(step, last.loss)
            if wrong := run.skipped.count(step, last):
                run.progress.say(f"{wrong}; skipped: nothing was learned")
                run.skipped.require_few(train.max_skipped_steps)
            elif last.loss is None:
                run.progress.say(f"step {step}: no target token in the whole batch, so nothing was learned")
            ended_by = notice.agree()
            if ended_by or step == train.steps or (train.save_interval and step % train.save_interval == 0):
                save(run, step, metrics)
                ended_by = ended_by or notice.agree()  # while it was saved
            if ended_by:
                break
            if run.held_out and run.held_out.is_due(step):
                evaluate(run, step, metrics, notice)
                if ended_by := notice.agree():  # while it was evaluated
                    save_once(run, step, metrics)
                    break
    if run.skipped.total:
        run.progress.say(f"{run.skipped.total} of {step} steps were skipped: see `skipped` in {run.output_dir / METRICS_FILE}")
    if lines:
        run.progress.say(f"{len(lines)} lines of the data cannot be used and were skipped: see {lines.path}")
    return step, last, ended_by
