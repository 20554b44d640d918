"""From a file to an encoder's inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from loongforge_core.component.config import EncoderConfig, Shape

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Augmentation", "ProcessedItem", "Processor"]

ConfigT = TypeVar("ConfigT", bound=EncoderConfig)


@dataclass(frozen=True)
class ProcessedItem:
    """One image, video or sound, ready for its encoder."""

    inputs: Mapping[str, np.ndarray]
    """What the encoder takes, by name. Along axis 0 the arrays of several items are concatenated; dtypes reach the encoder as they are."""
    size: Shape
    """The item's size, in the units that the encoder's config counts tokens from."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the recipe needs to know beside the size, such as a video's seconds per frame; hashable values."""


@dataclass(frozen=True)
class Augmentation:
    """How strongly to distort the items of one training sample, and the random numbers to do it with."""

    random: np.random.Generator
    """Seeded by the run's seed and the sample's place in the run, so that a resumed run sees the same items."""
    progress: float
    """Share of the run's steps already done, 0 to 1."""
    settings: BaseModel
    """`data.augment.<modality>`, validated by the processor's `augment_config`."""


class Processor(ABC, Generic[ConfigT]):
    """Opens a file of its modality. Numpy only: it runs in data workers. Made once per process, so it may keep what is slow to make."""

    augment_config: ClassVar[type[BaseModel] | None] = None
    """Settings of `data.augment.<modality>`; None: the processor distorts nothing, and asking for it is an error."""

    def __init__(self, config: ConfigT, modality: str = "") -> None:
        """`modality` is the one of the encoder's modalities whose files this processor opens."""
        self.config = config
        self.modality = modality

    @abstractmethod
    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        """The item in the file. Raises DataError naming the file when it is missing, truncated or of another kind."""

    def preview(self, path: Path) -> np.ndarray | None:
        """What `predictions.png` shows of the file: uint8, colours `[H, W, 3]` or intensities `[H, W]`.

        None: the image that the file is, or else its name.
        """
        return None

    def examples(self, folder: Path, random: np.random.Generator) -> Sequence[Path]:
        """Writes some four files of its modality into `folder`, of unequal and odd sizes: what the conformance kit tries the encoder with.

        Default: none, and the kit takes what the processor opens of the files that it can write itself: pictures, folders of pictures,
        sounds (WAV), rows of numbers and tables of them (`.npy`).
        """
        return ()

    def published(self) -> Mapping[str, Any]:
        """What a Hugging Face `preprocessor_config.json` says of the same processing; empty where there is no such class."""
        return {}
