"""An image file -> InternViT's tiles, as `transformers.GotOcr2ImageProcessorPil` cuts them, bit for bit: the grid of tiles whose shape is
nearest to the image's, then the whole image as one more tile. A frame of a video is one tile, like an image that is not cut.

Shapes: T tiles, H rows, W columns of a tile, both the config's `image_size`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loongforge_core.component import Augmentation, ProcessedItem, Processor
from loongforge_core.media.images import normalised, open_rgb
from loongforge_vit.images import check_rgb, published_pixels
from loongforge_vit.intern_vit.config import InternVitConfig
from loongforge_vit.videos import video_frames

__all__ = ["InternVitProcessor"]


class InternVitProcessor(Processor[InternVitConfig]):
    """Emits `pixel_values` `[T, 3, H, W]` float32, normalised by the config's mean and deviation; the size is (T,)."""

    def __init__(self, config: InternVitConfig, modality: str = "image") -> None:
        super().__init__(config, modality)
        check_rgb(config.num_channels)

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        assert augmentation is None, "augment_config says that there is none"
        if self.modality == "video":
            files, _ = video_frames(path, frames_per_second=1.0)  # when a frame was seen is not asked for
            tiles = [self.whole(open_rgb(file)) for file in files]
        else:
            tiles = list(self.tiles(open_rgb(path)))
        pixels = [normalised(tile, self.config.image_mean, self.config.image_std) for tile in tiles]
        return ProcessedItem({"pixel_values": np.stack(pixels)}, (len(pixels),))

    def whole(self, image: Image.Image) -> Image.Image:
        """As one tile."""
        return image.resize((self.config.image_size, self.config.image_size), Image.Resampling.BICUBIC)

    def tiles(self, image: Image.Image) -> Iterator[Image.Image]:
        """Row by row, the thumbnail last."""
        side = self.config.image_size
        rows, columns = self.config.tiling(image.height, image.width)
        resized = image.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
        for top in range(0, rows * side, side):
            for left in range(0, columns * side, side):
                yield resized.crop((left, top, left + side, top + side))
        if self.config.use_thumbnail and rows * columns > 1:
            yield self.whole(image)

    def published(self) -> Mapping[str, Any]:
        """Nothing where several tiles go without a thumbnail: the class in transformers always adds one."""
        config = self.config
        if config.max_tiles > 1 and not config.use_thumbnail:
            return {}
        return {
            "image_processor_type": "GotOcr2ImageProcessor",
            "size": {"height": config.image_size, "width": config.image_size},
            "crop_to_patches": config.max_tiles > 1,
            "min_patches": config.min_tiles,
            "max_patches": config.max_tiles,
            **published_pixels(config.image_mean, config.image_std),
        }
