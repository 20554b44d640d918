"""An image file -> CLIP's pixels, as `transformers.CLIPImageProcessorPil` makes them, bit for bit: the square in the middle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from loongforge_core.media.images import middle, with_shorter_side
from loongforge_vit.clip.config import ClipConfig
from loongforge_vit.images import published_pixels
from loongforge_vit.tower.processor import SquareProcessor

__all__ = ["ClipProcessor"]


class ClipProcessor(SquareProcessor[ClipConfig]):
    """The shorter edge is brought to the square's side, and what is too much of the longer one is cut off on both ends."""

    def fit(self, image: Image.Image) -> Image.Image:
        side = self.config.image_size
        return middle(with_shorter_side(image, side, Image.Resampling.BICUBIC), side)

    def published(self) -> Mapping[str, Any]:
        side = self.config.image_size
        return {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": side},
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            **published_pixels(self.config.image_mean, self.config.image_std),
        }
