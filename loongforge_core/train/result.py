"""What a step was like: sums over the global batch, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

__all__ = ["NotFinite", "StepResult", "Sums"]


@dataclass(frozen=True)
class NotFinite:
    """Why a step was not taken."""

    what: str
    """Such as `the loss is nan`."""
    samples: tuple[str, ...]
    """Those whose loss is not finite; where each has a finite one, and only the gradient of all has not, the whole global batch."""
    loss_is_finite: bool
    """Of every sample."""


@dataclass(frozen=True)
class StepResult:
    """What a step was like, the same on every rank. What is not finite is None, and `not_finite` says that."""

    loss: float | None
    """Mean over the target tokens of the global batch; None where there is no target token, and then nothing was learned."""
    loss_by_content: Mapping[str, float | None]
    """Mean over the target tokens of the samples that have text alone (`text_only`), and of those that have an item of a modality; one that
    has items of two counts in both. None where there is no such sample."""
    router_loss: float | None
    """What the routers of all layers add to that loss for the gradient, to balance their experts; None where there are none."""
    grad_norm: float | None
    """Before clipping."""
    grad_norm_by_slot: Mapping[str, float | None]
    """The same of each slot's parameters alone: the squares add up to that of `grad_norm`."""
    learning_rate: float
    """That of `train.lr`; slots with their own are in proportion."""
    tokens: int
    """Target tokens of the global batch."""
    samples: int
    """Samples of the global batch."""
    not_finite: NotFinite | None = None
    """Set where the step was not taken for it."""


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Of the global batch, the same on every rank."""

    loss: float
    """The recipe's, summed over target tokens."""
    tokens: int
    by_content: Mapping[str, tuple[float, float]]
    """Loss and target tokens."""
    router_loss: float
    routers: int
    """How many have measured it, on all ranks."""
    squared_norms: Mapping[str, float]
    """Of each slot's gradient."""

    @property
    def grad_norm(self) -> float:
        """In float32, whose rounding leaves nothing of the order in which ranks were added: by it every gradient is clipped."""
        return float(torch.tensor(math.sqrt(sum(self.squared_norms.values())), dtype=torch.float32))

    @property
    def not_finite(self) -> str | None:
        """What is not, in words."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        return None if math.isfinite(self.grad_norm) else f"the gradient norm is {self.grad_norm}"

    def result(self, learning_rate: float, samples: int, not_finite: NotFinite | None) -> StepResult:
        norms = {slot: finite(math.sqrt(square)) for slot, square in self.squared_norms.items()}
        return StepResult(
            loss=mean(self.loss, self.tokens),
            loss_by_content={name: mean(*both) for name, both in self.by_content.items()},
            router_loss=mean(self.router_loss, self.tokens) if self.routers else None,
            grad_norm=finite(self.grad_norm) if self.tokens else None,
            grad_norm_by_slot=norms if self.tokens else dict.fromkeys(norms),
            learning_rate=learning_rate,
            tokens=self.tokens,
            samples=samples,
            not_finite=not_finite,
        )


def mean(total: float, count: float) -> float | None:
    return finite(total / count) if count else None


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
