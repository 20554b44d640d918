"""`metrics.jsonl`, one object a step, `evaluations.jsonl`, one an evaluation, and the same for TensorBoard; written as soon as known.

A step's object has the fields of `StepResult`, with null where there is nothing to say: `skipped` is its `not_finite`, why the step was not
taken; beside them is how long it took.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from loongforge_core.train.result import StepResult

__all__ = ["EVALUATIONS_FILE", "METRICS_FILE", "Metrics", "read_lines"]

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"


class Metrics:
    """Goes on after `first_step` steps; what is there of later ones is cut off."""

    def __init__(self, output_dir: Path, *, first_step: int) -> None:
        path, self.evaluations = output_dir / METRICS_FILE, output_dir / EVALUATIONS_FILE
        resumed = path.exists()
        for each in (path, self.evaluations):
            if each.exists():
                cut(each, first_step)
        self.file = path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(output_dir), purge_step=first_step + 1 if resumed else None)

    def write(self, step: int, result: StepResult, *, lines_skipped: int = 0, seconds: float) -> None:
        """`step` counts from 1."""
        wrong = result.not_finite
        values: dict[str, Any] = {
            "loss": result.loss,
            "loss_by_content": dict(result.loss_by_content),
            "router_loss": result.router_loss,
            "grad_norm": result.grad_norm,
            "grad_norm_by_slot": dict(result.grad_norm_by_slot),
            "learning_rate": result.learning_rate,
            "tokens": result.tokens,
            "samples": result.samples,
            "lines_skipped": lines_skipped,
            "skipped": None if wrong is None else asdict(wrong),
            "step_time_s": round(seconds, 6),
            "tokens_per_s": round(result.tokens / seconds, 1),
        }
        self.file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self.file.flush()
        shown = ("loss", "loss_by_content", "router_loss", "grad_norm", "grad_norm_by_slot", "learning_rate", "tokens_per_s")
        self._draw(step, {name: values[name] for name in shown})

    def write_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """A line of `evaluations.jsonl`, on disk when this returns: it decides which checkpoint is the best."""
        with self.evaluations.open("a", encoding="utf-8") as file:
            file.write(json.dumps(evaluation, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._draw(evaluation["step"], {f"held_out_{name}": evaluation[name] for name in ("loss", "exact_match")})

    def _draw(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in flat(values):
            self.board.add_scalar(name, value, step)

    def write_through(self) -> None:
        """Returns when everything is on disk: a checkpoint's metrics must not be younger than itself."""
        os.fsync(self.file.fileno())
        self.board.flush()

    def close(self) -> None:
        self.file.close()
        self.board.close()


def flat(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number, by names such as `loss` and `loss_by_content/image`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in flat(value))
        elif value is not None:
            yield name, value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def cut(path: Path, last_step: int) -> None:
    """Keeps the lines of steps up to `last_step`. A line that a killed run did not finish is later than every checkpoint."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except ValueError:
            break
        if step > last_step:
            break
        kept.append(line)
    shortened = path.with_suffix(".shortened")
    shortened.write_text("".join(kept), encoding="utf-8")
    os.replace(shortened, path)
