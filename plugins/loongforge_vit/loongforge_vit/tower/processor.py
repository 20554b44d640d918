"""An image file -> one square of a tower's size. How the image is fitted into the square, the tower says.

Shapes: H rows, W columns, both the config's `image_size`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from loongforge_core.component import Augmentation, ProcessedItem, Processor
from loongforge_core.errors import DataError
from loongforge_core.media.images import normalised, open_rgb
from loongforge_vit.images import check_rgb
from loongforge_vit.tower.config import TowerConfig
from loongforge_vit.tower.distortion import Distortion, distort, draw_distortion

__all__ = ["SquareProcessor"]

CACHED_IMAGES = 4096
CACHED_BYTES = 16 * 1024
"""An image whose pixels take no more than this is opened once: opening it takes longer than everything else."""

TowerConfigT = TypeVar("TowerConfigT", bound=TowerConfig)


class SquareProcessor(Processor[TowerConfigT]):
    """Emits `pixel_values` `[1, 3, H, W]` float32, normalised by the config's mean and deviation; the size is (H, W)."""

    augment_config = Distortion

    def __init__(self, config: TowerConfigT, modality: str = "image") -> None:
        super().__init__(config, modality)
        check_rgb(config.num_channels)
        self._small_images: OrderedDict[str, np.ndarray] = OrderedDict()

    @abstractmethod
    def fit(self, image: Image.Image) -> Image.Image:
        """The image as a square of the config's `image_size`. Raises ValueError where its shape allows none."""

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        pixels = self._pixels(path)
        if augmentation is not None:
            pixels = distort(pixels, *draw_distortion(augmentation))
        return ProcessedItem({"pixel_values": pixels}, (self.config.image_size, self.config.image_size))

    def _pixels(self, path: Path) -> np.ndarray:
        """The undistorted pixels. Small ones are kept, so they must not be written to."""
        name = str(path)  # a path is slow to compare
        if (known := self._small_images.get(name)) is not None:
            self._small_images.move_to_end(name)
            return known
        try:
            fitted = self.fit(open_rgb(path))
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        pixels = normalised(fitted, self.config.image_mean, self.config.image_std)[None]
        pixels.setflags(write=False)
        if pixels.nbytes <= CACHED_BYTES:
            self._small_images[name] = pixels
            if len(self._small_images) > CACHED_IMAGES:
                self._small_images.popitem(last=False)
        return pixels
