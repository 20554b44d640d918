"""Configs and processors of the components that bugs are planted in, right and wrong ones. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ConfigDict

from loongforge_core import Augmentation, DataError, EncoderConfig, ItemMarkup, ItemSpan, ProcessedItem, Processor, RecipeConfig, Shape
from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.testing.conformance.neighbours import PlainProjectorConfig

PATCH = 4
WIDTH = 16


class RowConfig(EncoderConfig):
    """A token for every four numbers of a row, the last of which may be fewer."""

    init_method_std: float = 0.3

    @property
    def feature_size(self) -> int:
        return WIDTH

    def token_grid(self, size: Shape) -> Shape:
        return (-(-size[0] // PATCH),)


class RoundsDown(RowConfig):
    """Off by one for lengths that are no multiple of four."""

    def token_grid(self, size: Shape) -> Shape:
        return (max(1, size[0] // PATCH),)


class TakesAnything(RowConfig):
    model_config = ConfigDict(extra="ignore")


class SaysItCanBeSplit(RowConfig):
    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        return ()


class RowProcessor(Processor[RowConfig]):
    """`values` `[length]` float32; the size is (length,)."""

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        try:
            values = np.load(path, allow_pickle=False).astype(np.float32)
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{path}: no row of numbers: {error}") from error
        if values.ndim != 1:
            raise DataError(f"{path}: expected a row of numbers")
        return ProcessedItem({"values": values}, (len(values),))


class LetsErrorsThrough(RowProcessor):
    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        values = np.load(path, allow_pickle=False).astype(np.float32)
        return ProcessedItem({"values": values.reshape(-1)}, (values.size,))


class HalvesConfig(PlainProjectorConfig):
    """Every two features become one token."""

    def token_grid(self, grid: Shape) -> Shape:
        return (*grid[:-1], -(-grid[-1] // 2))


class TwoLinearConfig(PlainProjectorConfig):
    """As wide inside as outside: its two layers can be mistaken for each other."""


class TinyDecoderConfig(DecoderConfig):
    """The shared decoder."""


class MarksConfig(RecipeConfig):
    def markup(self, modality: str) -> ItemMarkup:
        return ItemMarkup(placeholder={"row": "<row>", "image": "<image>"}[modality])


class ForgetsAModality(MarksConfig):
    def markup(self, modality: str) -> ItemMarkup:
        return ItemMarkup(placeholder={"image": "<image>"}[modality])


class CountsFromOne(MarksConfig):
    def position_ids(self, length: int, spans: Sequence[ItemSpan]) -> np.ndarray:
        return np.arange(1, length + 1, dtype=np.int64)
