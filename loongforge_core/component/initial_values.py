"""The distributions that a component's tensors are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from loongforge_core.component.config import Shape

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Initial", "InitialValues"]


@dataclass(frozen=True)
class Initial:
    """The distribution that a tensor's initial values come from. Drawn by the tensor's global name, so every layout agrees."""

    kind: Literal["normal", "uniform", "constant", "given"]
    value: float = 0.0
    """Standard deviation, half width of the interval around zero, or the constant."""
    values: Callable[[Shape], np.ndarray] | None = None
    """For `given`: the whole tensor of this shape, such as a table of sinusoids that is stored but not learned from scratch."""


@dataclass(frozen=True)
class InitialValues:
    """Distributions by glob pattern over the names in the state dict, the first that matches; a name that none matches is an error.

    Buffers are drawn too, unless registered with `persistent=False`.
    """

    patterns: Mapping[str, Initial] = field(default_factory=dict)

    @staticmethod
    def transformer(std: float, first: Mapping[str, Initial] | None = None) -> InitialValues:
        """Ones for norms, zeros for biases, normal of width `std` for the rest; the patterns of `first` come before these."""
        return InitialValues(
            {
                **(first or {}),
                "*bias": Initial("constant"),
                "*norm*.weight": Initial("constant", 1.0),
                "*": Initial("normal", std),
            }
        )
