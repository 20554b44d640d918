"""What a `model_type` means: how items are written in a prompt, and which positions tokens have."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from loongforge_core.component.config import ComponentConfig, Shape

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ItemMarkup", "ItemRun", "ItemSpan", "RecipeConfig"]


@dataclass(frozen=True)
class ItemMarkup:
    """How an item is written in a prompt: `before`, the placeholder once for every token of the item, `after`."""

    placeholder: str
    """A token of the tokenizer, or any text that stands for one."""
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        return f"{self.before}{self.placeholder}{self.after}"


@dataclass(frozen=True)
class ItemRun:
    """Consecutive tokens of an item, and the text around them."""

    grid: Shape
    """How its tokens lie."""
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class ItemSpan:
    """Where a run of an item's tokens stands in a sample; most items are one run."""

    modality: str
    start: int
    """Index of its first placeholder in the token sequence."""
    grid: Shape
    """How its tokens lie after the projector; they are consecutive."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """`ProcessedItem.details`."""
    continues: bool = False
    """It goes on with the item of the span before it."""

    @property
    def num_tokens(self) -> int:
        return math.prod(self.grid)


class RecipeConfig(ComponentConfig, ABC):
    """What a `model_type` means, as far as data workers and `validate` need it; the rest is `layers.interfaces.Recipe`."""

    behaves_as_default: ClassVar[bool] = False
    """Positions and loss are the default recipe's: a free combination that fits this recipe's published format is exported in it."""

    @abstractmethod
    def markup(self, modality: str) -> ItemMarkup:
        """How an item of `modality` is written in a prompt. Raises KeyError for a modality that the recipe does not know."""

    def runs(self, modality: str, grid: Shape, details: Mapping[str, Any]) -> Sequence[ItemRun]:
        """What stands in the place of the placeholder of an item whose tokens lie in `grid`: its tokens in order, text between them.

        Default: one run. `details` are `ProcessedItem.details`, such as when each frame of a video was taken.
        """
        return (ItemRun(grid),)

    def position_ids(self, length: int, spans: Sequence[ItemSpan]) -> np.ndarray:
        """Position of each of a sample's tokens: int64 `[length]`, or `[3, length]` (time, height, width) for M-RoPE."""
        import numpy as np

        return np.arange(length, dtype=np.int64)

    @property
    def position_axes(self) -> int:
        """1, or 3 for M-RoPE."""
        return 1
