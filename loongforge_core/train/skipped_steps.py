"""The steps of a run that were not taken, because loss or gradient was not finite; too many in a row end it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loongforge_core.errors import LoongForgeError
from loongforge_core.train.result import NotFinite, StepResult

__all__ = ["SkippedSteps"]

SHOWN = 20
"""Samples that are named in a message; metrics.jsonl has all."""


@dataclass
class SkippedSteps:
    """The same on every rank. A checkpoint has it in its record, so that a resumed run ends where one that was never stopped would."""

    total: int = 0
    in_a_row: list[str] = field(default_factory=list)
    """What is to be said of each of the last ones, since a step was taken."""

    @classmethod
    def from_record(cls, recorded: Mapping[str, Any]) -> SkippedSteps:
        return cls(total=recorded["total"], in_a_row=list(recorded["in_a_row"])) if recorded else cls()

    def to_record(self) -> dict[str, Any]:
        return {"total": self.total, "in_a_row": list(self.in_a_row)}

    def count(self, step: int, result: StepResult) -> str | None:
        """Takes a step's result into account. What to say of it, where it was not taken."""
        if result.not_finite is None:
            if result.tokens:  # of a step without targets nothing is known
                self.in_a_row.clear()
            return None
        said = f"step {step}: {described(result.not_finite)}"
        self.total += 1
        self.in_a_row.append(said)
        return said

    def require_few(self, limit: int) -> None:
        """Raises LoongForgeError where more than `limit` steps in a row were not taken."""
        if len(self.in_a_row) <= limit:
            return
        steps = f"{len(self.in_a_row)} steps in a row, more than train.max_skipped_steps ({limit}), were" if limit else "a step was"
        raise LoongForgeError(
            "\n".join(
                [
                    f"{steps} skipped because loss or gradient was not finite; stopped, and the last checkpoint is as it was",
                    *(f"  {said}" for said in self.in_a_row),
                    "look at these samples; where they are well, a smaller train.lr or a longer train.lr_warmup_steps may help. With a "
                    "larger train.max_skipped_steps the same command goes on from the last checkpoint and past these steps",
                ]
            )
        )


def described(wrong: NotFinite) -> str:
    shown, rest = wrong.samples[:SHOWN], len(wrong.samples) - SHOWN
    samples = "the loss of each sample is finite; they are" if wrong.loss_is_finite else "that of these samples is not finite:"
    return f"{wrong.what}; {samples} {', '.join(shown)}" + (f" and {rest} more" if rest > 0 else "")
