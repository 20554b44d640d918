"""Configs only: nothing here is ever built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

from loongforge_core.component import BackboneConfig, EncoderConfig, ItemMarkup, ProjectorConfig, RecipeConfig, Shape, indivisible


class EyeConfig(EncoderConfig):
    """Every image is two by two tokens."""

    width: PositiveInt = 8
    """Width of its features, in channels."""
    image_size: tuple[int, int] = (4, 4)

    @property
    def feature_size(self) -> int:
        return self.width

    @property
    def fixed_item_size(self) -> Shape:
        return self.image_size

    def token_grid(self, size: Shape) -> Shape:
        return tuple(side // 2 for side in size)


class EarConfig(EncoderConfig):
    """Sounds of any length, with levels; the only encoder here that can be split."""

    width: PositiveInt = 6
    levels: int = 2

    @property
    def feature_size(self) -> int:
        return self.width

    def largest_item_size(self, modality: str) -> Shape | None:
        return (900,)

    @property
    def num_levels(self) -> int:
        return self.levels

    def token_grid(self, size: Shape) -> Shape:
        return size

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        return indivisible(size, width=self.width)


class BridgeConfig(ProjectorConfig):
    """Takes levels, and anything."""

    activation: Literal["gelu", "silu"] = "gelu"

    @property
    def takes_levels(self) -> bool:
        return True


class FoldConfig(ProjectorConfig):
    """Folds two rows into one; takes no levels."""

    def token_grid(self, grid: Shape) -> Shape:
        if grid[0] % 2:
            raise ValueError(f"{grid[0]} rows cannot be folded in two")
        return (grid[0] // 2, *grid[1:])


class Rope(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    base: float = 10000.0


class BrainConfig(BackboneConfig):
    backends = ("torch", "transformer_engine")
    original_forms: ClassVar[Mapping[str, Mapping[Any, Mapping[str, Any]]]] = {
        "rotary_emb_func": {"Rope": {}, "WideRope": {"rope": {"base": 500.0}}},
        "model_spec": {
            ("old.brains", "get_brain_spec"): {},
            ("old.brains", "get_brain_with_te_spec"): {"backend": "transformer_engine"},
        },
    }

    num_layers: PositiveInt
    hidden_size: PositiveInt
    vocab_size: PositiveInt = 32
    num_attention_heads: PositiveInt = 4
    rope: Rope | None = None

    @property
    def takes_levels(self) -> bool:
        return True

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        return indivisible(size, num_attention_heads=self.num_attention_heads)


class DeafBrainConfig(BackboneConfig):
    num_layers: PositiveInt = 2
    hidden_size: PositiveInt = 16
    vocab_size: PositiveInt = 32


class StoryConfig(RecipeConfig):
    """Knows images only."""

    original_forms: ClassVar[Mapping[str, Mapping[Any, Mapping[str, Any]]]] = {"loss_func": {"loss_func_story": {}}}

    ending: str = "happy"
    axes: int = 1

    @property
    def position_axes(self) -> int:
        return self.axes

    def markup(self, modality: str) -> ItemMarkup:
        return {"image": ItemMarkup("<picture>")}[modality]


class GreedyConfig(EyeConfig):
    """Declares a key that core takes out of a slot itself."""

    freeze: bool = False
