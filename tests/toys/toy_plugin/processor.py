"""Processors that open nothing."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from loongforge_core.component import Augmentation, ProcessedItem, Processor
from toy_plugin.config import EyeConfig


class Blur(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    radius: float = Field(0.5, ge=0)
    share: float = 1.0


class EyeProcessor(Processor[EyeConfig]):
    augment_config = Blur

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        return ProcessedItem({}, self.config.image_size)


class EarProcessor(EyeProcessor):
    augment_config = None
