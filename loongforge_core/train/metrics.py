"""`metrics.jsonl` and TensorBoard's event files: one object a step, on disk before the next step begins."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from loongforge_core.train.step import StepResult

__all__ = ["METRICS_FILE", "Metrics"]

METRICS_FILE = "metrics.jsonl"


class Metrics:
    """Goes on after `first_step` steps; what is there of later ones is cut off."""

    def __init__(self, output_dir: Path, *, first_step: int) -> None:
        path = output_dir / METRICS_FILE
        resumed = path.exists()
        if resumed:
            cut(path, first_step)
        self.file = path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(output_dir), purge_step=first_step + 1 if resumed else None)

    def write(self, step: int, result: StepResult, *, seconds: float) -> None:
        """`step` counts from 1."""
        values: dict[str, Any] = {
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "learning_rate": result.learning_rate,
            "tokens": result.tokens,
            "samples": result.samples,
            "step_time_s": round(seconds, 6),
            "tokens_per_s": round(result.tokens / seconds, 1),
        }
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        for name in ("loss", "grad_norm", "learning_rate", "tokens_per_s"):
            if values[name] is not None:
                self.board.add_scalar(name, values[name], step)

    def write_through(self) -> None:
        """Returns when everything is on disk: a checkpoint's metrics must not be younger than itself."""
        os.fsync(self.file.fileno())
        self.board.flush()

    def close(self) -> None:
        self.file.close()
        self.board.close()


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
