"""Evaluation during a run: every `train.eval_interval` steps and at the end, on `data.eval_path`, in any layout.

    <output_dir>/evaluations.jsonl          one object an evaluation: step, loss, exact match, all of it and by kind
                 checkpoints/best.json      which step was the best; its checkpoint is there, and is kept

A resumed run cuts off what is later than its checkpoint, as it does with metrics; an evaluation that the stopped one did not come to, right
behind its checkpoint, is made first. So the file is that of a run that was never stopped, and what is the best follows from it: from the
evaluations on the file as it is now, by whose digest each is marked.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loongforge_core.config.composition import Composition
from loongforge_core.config.settings import EvaluationSettings
from loongforge_core.data.conversations import ConversationFiles
from loongforge_core.data.sample import SampleMaker
from loongforge_core.errors import CheckpointError
from loongforge_core.generate.evaluate import Prediction, answer_questions, exact_match, open_questions, replace_text
from loongforge_core.generate.greedy import GreedyDecoder
from loongforge_core.generate.held_out import held_out_loss
from loongforge_core.train.checkpoint.folders import FOLDER, checkpoints
from loongforge_core.train.step import Trainer

__all__ = ["BEST", "Evaluation", "HeldOut", "best_checkpoint", "best_of", "write_best"]

BEST = "best"
"""In the place of a checkpoint's folder: the best of the run."""
BEST_FILE = f"{BEST}.json"


@dataclass(frozen=True)
class Evaluation:
    """What the held-out file says of the weights after a step."""

    row: Mapping[str, Any]
    """The object of `evaluations.jsonl`."""
    predictions: Sequence[Prediction] | None
    """None where no question was answered."""

    def __str__(self) -> str:
        loss, share = self.row["loss"], self.row["exact_match"]
        said = f"step {self.row['step']}: held-out loss {'not finite' if loss is None else f'{loss:.4f}'}"
        return said if share is None else f"{said}, exact match {share:.2%} of {self.row['samples']}"


@dataclass
class HeldOut:
    """The held-out file of a run and what was found so far, the same on every rank."""

    composition: Composition
    maker: SampleMaker
    questions: ConversationFiles
    rows: list[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, composition: Composition, maker: SampleMaker) -> HeldOut | None:
        """None where nothing is evaluated on the way. Raises DataError where the file is not as questions are."""
        run = composition.run
        if not (run.train.eval_interval and run.data.eval_path):
            return None
        return cls(composition, maker, open_questions(Path(run.data.eval_path), composition.modalities))

    @property
    def digest(self) -> str:
        """Of the held-out file."""
        return self.questions.files[0].digest

    def take_up(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """What was found before the run was resumed; how many of these evaluations were on another file, and are none to compare with."""
        found = list(rows)
        self.rows += [row for row in found if row.get("file_sha256", self.digest) == self.digest]
        return len(found) - len(self.rows)

    def is_due(self, step: int) -> bool:
        """After the step of this number; not where it was done already."""
        train = self.composition.run.train
        due = step > 0 and (step % train.eval_interval == 0 or step == train.steps)
        return due and not any(row["step"] == step for row in self.rows)

    @property
    def best(self) -> Mapping[str, Any] | None:
        return best_of(self.rows, self.composition.run.evaluation)

    def evaluate(self, step: int, trainer: Trainer, *, between: Callable[[], None] = lambda: None) -> Evaluation:
        """All ranks call it. Training goes on after it as if it had not been. `between`, called now and then, may end it by raising."""
        start, settings = time.perf_counter(), self.composition.run.evaluation
        (model,) = trainer.models
        trainer.gather_weights()  # ranks do not make the same passes
        loss = held_out_loss(self.maker, model, self.questions, batch_size=self.composition.run.train.micro_batch_size, between=between)
        predictions = None
        if settings.best_by == "exact_match":
            decoder = GreedyDecoder(self.maker, model, settings.max_new_tokens)
            predictions = answer_questions(decoder, self.questions, batch_size=settings.batch_size, between=between)
        row = {
            "step": step,
            "loss": loss if math.isfinite(loss) else None,
            "exact_match": predictions and sum(one.is_correct for one in predictions) / len(predictions),
            "exact_match_by_kind": predictions and {kind: found["exact_match"] for kind, found in exact_match(predictions).items()},
            "samples": len(self.questions),
            "file_sha256": self.digest,
            "seconds": round(time.perf_counter() - start, 3),
        }
        self.rows.append(row)
        return Evaluation(row, predictions)


def best_of(rows: Sequence[Mapping[str, Any]], settings: EvaluationSettings) -> Mapping[str, Any] | None:
    """Of several that are equal, the first: it took the fewest steps. None where there is no evaluation."""

    def rank(row: Mapping[str, Any]) -> tuple[float, float]:
        loss = math.inf if row["loss"] is None else row["loss"]
        return (-(row["exact_match"] or 0.0) if settings.best_by == "exact_match" else 0.0, loss)

    return min(rows, key=rank, default=None)


def write_best(output_dir: Path, best: Mapping[str, Any], settings: EvaluationSettings) -> None:
    """Says which checkpoint is the best, all or nothing."""
    said = {"step": best["step"], "by": settings.best_by, "loss": best["loss"], "exact_match": best["exact_match"]}
    replace_text(output_dir / FOLDER / BEST_FILE, json.dumps(said, indent=2) + "\n")


def best_checkpoint(output_dir: Path) -> Path:
    """Raises CheckpointError where no evaluation has said which it is, or it is not there any more."""
    path = output_dir / FOLDER / BEST_FILE
    try:
        step = json.loads(path.read_text(encoding="utf-8"))["step"]
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist: which checkpoint is the best is known of runs with train.eval_interval and data.eval_path"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} does not say which checkpoint is the best: {error}") from error
    found = checkpoints(output_dir)
    if step not in found:
        raise CheckpointError(f"{path} says that step {step} was the best, but there are only checkpoints of {list(found) or 'no step'}")
    return found[step]
