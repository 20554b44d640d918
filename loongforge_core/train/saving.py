"""What a run leaves on its way: metrics, checkpoints, and what the held-out file says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from torch import distributed

from loongforge_core.parallel.launch import agreed
from loongforge_core.train.checkpoint.folders import checkpoints, newest_checkpoint, remove_old
from loongforge_core.train.checkpoint.save import save_checkpoint
from loongforge_core.train.disk import writing
from loongforge_core.train.held_out import write_best
from loongforge_core.train.metrics import EVALUATIONS_FILE, METRICS_FILE, Metrics, read_lines
from loongforge_core.train.notice import Notice, Noticed
from loongforge_core.train.prepare import Run

__all__ = ["catch_up", "evaluate", "metrics_of", "recording", "save", "save_once"]


@contextlib.contextmanager
def metrics_of(run: Run, first_step: int) -> Iterator[Metrics | None]:
    """The first rank's; the others write none."""
    if distributed.get_rank():
        yield None
        return
    with recording(run):
        metrics = Metrics(run.output_dir, first_step=first_step)
    try:
        yield metrics
    except BaseException:
        with contextlib.suppress(OSError):  # what has gone wrong is known
            metrics.close()
        raise
    with recording(run):
        metrics.close()


def recording(run: Run) -> contextlib.AbstractContextManager[None]:
    """Around what writes metrics: makes a full disk an error that says what is kept."""
    return writing(run.output_dir / METRICS_FILE, last=partial(newest_checkpoint, run.output_dir))


def save(run: Run, step: int, metrics: Metrics | None) -> None:
    if metrics:
        with recording(run):
            metrics.write_through()
    save_checkpoint(run.output_dir, run.trainer, replace(run.record, step=step, skipped=run.skipped.to_record()))
    tidy(run)


def save_once(run: Run, step: int, metrics: Metrics | None) -> None:
    """Where it is not saved already."""
    if not agreed(lambda: step in checkpoints(run.output_dir)):
        save(run, step, metrics)


def tidy(run: Run) -> None:
    """Says which checkpoint is the best so far, and removes those that need not be kept."""
    train, best = run.composition.run.train, run.held_out.best if run.held_out else None
    if distributed.get_rank() == 0:
        with recording(run):
            if best:
                write_best(run.output_dir, best, run.composition.run.evaluation)
            spared = [best["step"]] if best else []
            remove_old(run.output_dir, keep=train.keep_checkpoints, retain_interval=train.save_retain_interval, spared=spared)


def catch_up(run: Run, step: int, metrics: Metrics | None) -> None:
    """What was found before, and the evaluation after `step`, which the run has a checkpoint of, where it was stopped before that one."""
    if run.held_out:
        if others := run.held_out.take_up(agreed(lambda: read_lines(run.output_dir / EVALUATIONS_FILE))):
            said = f"{others} earlier evaluations were on another file, so that the best is looked for among those from now on"
            run.progress.say(f"data.eval_path has changed: {said}")
        if run.held_out.is_due(step):
            evaluate(run, step, metrics)


def evaluate(run: Run, step: int, metrics: Metrics | None, notice: Notice | None = None) -> None:
    """The weights after `step` on the held-out file. The best so far get a checkpoint where they have none.

    A notice that the run is to end breaks it off; it is made when the run goes on, if there is a checkpoint of that step.
    """
    assert run.held_out
    run.progress.doing("evaluating")
    try:
        found = run.held_out.evaluate(step, run.trainer, between=notice.require_none if notice else lambda: None)
    except Noticed:
        return
    run.predictions = found.predictions if step == run.composition.run.train.steps else None
    if metrics:
        with recording(run):
            metrics.write_evaluation(found.row)
    is_best = found.row is run.held_out.best
    run.progress.say(f"{found}, the best so far" if is_best else f"{found}")
    if is_best:
        save_once(run, step, metrics)
    tidy(run)
    run.progress.begin(step)
