"""What a component is, kind by kind, asked without building it; a recipe's is in `recipe.py`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["SLOT_KEYS", "BackboneConfig", "Backend", "ComponentConfig", "EncoderConfig", "ProjectorConfig", "Shape", "indivisible"]

Backend = Literal["torch", "transformer_engine"]

Shape = tuple[int, ...]
"""How tokens lie, or how large an item is: `(height, width)`, `(frames,)`, `(time, height, width)`; the encoder says which."""

SLOT_KEYS = frozenset({"type", "pretrained", "freeze", "lr", "weight_decay", "backend", "also_encodes"})
"""What core takes out of a slot before the rest becomes the component's config."""


class ComponentConfig(BaseModel):
    """What a component *is*: sizes and switches. No layout, no dtype, no kernels.

    Core takes a slot's own keys out first (`SLOT_KEYS`), so a config may not declare one of them.
    A docstring under a field becomes its description in `loongforge show` and in the JSON schema.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    original_forms: ClassVar[Mapping[str, Mapping[Any, Mapping[str, Any]]]] = {}
    """Keys of the original design's YAML: key -> value -> the fields that it means, which may be none; a value that was a pair is a tuple.

    `backend: transformer_engine` among them is a wish: where it is not installed, `torch` is used and said.
    """

    tiny: ClassVar[Mapping[str, Any]] = {}
    """Settings of a size that a test builds and runs in a second: a width of 16, two or three layers. The conformance kit
    (`loongforge check-plugin`) tries the component at this size. A projector leaves out the widths, which follow from its neighbours.
    """

    backends: ClassVar[Sequence[Backend]] = ("torch",)
    """Kernels that the module can be built of. It takes them from `context.backend` where it names more than one; what it does not name is
    refused, rather than that a slot's `backend` does nothing."""

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        """Why the module cannot be split over `size` tensor ranks: a reason for each number that does not fit; none where it can.

        Default: it is not split at all, and rather than holding all of it on every rank unnoticed, sizes above 1 are refused. A module
        made of Megatron's parallel layers says what these cut: `return indivisible(size, num_attention_heads=..., ffn_hidden_size=...)`.
        """
        return () if size == 1 else (f"it is not made to be split, and each of {size} ranks would hold all of it",)

    @property
    def depends_on_layout(self) -> str:
        """What makes the numbers depend on the parallel layout or the size of a micro-batch, and what would not; empty: nothing does."""
        return ""


def indivisible(size: int, **numbers: int) -> list[str]:
    """A reason, with its arithmetic, for every number that `size` does not divide; for `tensor_parallel_conflicts`."""
    return [
        f"{name} {number} does not divide by {size}: {number} = {number // size} x {size} + {number % size}"
        for name, number in numbers.items()
        if number % size
    ]


class EncoderConfig(ComponentConfig, ABC):
    """An encoder, asked without building it."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """Width of the features it emits."""

    @abstractmethod
    def token_grid(self, size: Shape) -> Shape:
        """How the features of an item of `size` lie: `(rows, columns)` say. Their product is the number of tokens.

        `size` is what the processor says of the item. Raises ValueError for one that the encoder cannot take.
        """

    @property
    def encodes(self) -> Sequence[str]:
        """Which of its component's modalities it encodes, where that depends on its settings; empty: all of them."""
        return ()

    @property
    def fixed_item_size(self) -> Shape | None:
        """The size that the processor brings every item to; None where it varies. `validate` counts tokens with it."""
        return None

    @property
    def typical_item_size(self) -> Shape | None:
        """A size that items have where it varies, by which is checked whether a projector takes features that lie so; None: not checked."""
        return self.fixed_item_size

    def largest_item_size(self, modality: str) -> Shape | None:
        """A size of which no item of `modality` gives more tokens; None: no limit is known. `validate` says how many they are."""
        return self.fixed_item_size

    def num_tokens(self, size: Shape) -> int:
        return math.prod(self.token_grid(size))

    def cost(self, size: Shape) -> float:
        """Relative cost of encoding an item of `size`, for balancing items over ranks. Default: its tokens."""
        return float(self.num_tokens(size))

    @property
    def num_levels(self) -> int:
        """Extra features per item, from earlier layers; level i is added after the decoder's layer i (DeepStack)."""
        return 0


class ProjectorConfig(ComponentConfig, ABC):
    """A projector. Core fills the widths and levels in from its neighbours; where YAML states them they must agree."""

    input_size: int
    """Width of the encoder's features; inferred."""
    hidden_size: int
    """Width of the embeddings it emits, the language model's; inferred."""
    num_levels: int = 0
    """Levels that its encoder emits beside the features; inferred."""

    def token_grid(self, grid: Shape) -> Shape:
        """How its output tokens lie, for features that lie in `grid`. Raises ValueError for a grid that it cannot take."""
        return grid

    @property
    def takes_levels(self) -> bool:
        """Whether it projects an encoder's levels too."""
        return False

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        """Default: none. A projector is small: what is not made of parallel layers is held whole by every tensor rank of its encoder."""
        return ()


class BackboneConfig(ComponentConfig, ABC):
    """A language model."""

    num_layers: int
    hidden_size: int
    vocab_size: int
    """Rows of the embedding table as published, before any padding for tensor parallelism."""

    @property
    def takes_levels(self) -> bool:
        """Whether levels can be added at its layers."""
        return False

    @property
    def position_axes(self) -> int:
        """Axes of the position ids that it takes: 1, or 3 for M-RoPE. A recipe that makes others does not fit."""
        return 1

    @property
    def needs_sequence_parallel(self) -> bool:
        """Whether, over several tensor ranks, sequences must be cut too: Megatron's experts take tokens that way only."""
        return False

    def expert_parallel_conflicts(self, size: int, tensor_size: int) -> Sequence[str]:
        """Why experts cannot be shared by `size` ranks and each be split over `tensor_size` more: a reason for each number that does not
        fit; none where it can. Default: it has no experts."""
        return () if size == 1 else ("it has no experts that ranks could share",)

    def numbers_by_length(self, longest: int) -> Mapping[str, Any]:
        """What of its numbers follows from the longest sequence of a run, `train.seq_length`: a checkpoint keeps it. Default: nothing."""
        return {}

    @property
    def max_sequence_length(self) -> int | None:
        """The longest sequence that it was made for, in tokens; None: no limit is known. `train.seq_length` may not be above it."""
        return None
