"""An image file -> CLIP's pixels, as `transformers.CLIPImageProcessorPil` makes them, bit for bit: the square in the middle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from loongforge_vit.clip.config import ClipConfig
from loongforge_vit.images import published_pixels
from loongforge_vit.tower.processor import SquareProcessor

__all__ = ["ClipProcessor"]

MOST_PIXELS = 2**28
"""Of a resized image, before its middle is cut out: 0.8 GB, where a file of a few bytes could ask for any number."""


class ClipProcessor(SquareProcessor[ClipConfig]):
    """The shorter edge is brought to the square's side, and what is too much of the longer one is cut off on both ends."""

    def fit(self, image: Image.Image) -> Image.Image:
        side, shorter = self.config.image_size, min(image.size)
        width, height = (int(side * edge / shorter) for edge in image.size)
        if width * height > MOST_PIXELS:
            raise ValueError(
                f"{image.height} x {image.width} pixels are too elongated: with the shorter side brought to {side} they would be "
                f"{width * height:,}, and at most {MOST_PIXELS:,} are made"
            )
        left, top = (width - side) // 2, (height - side) // 2
        return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))

    def published(self) -> Mapping[str, Any]:
        side = self.config.image_size
        return {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": side},
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            **published_pixels(self.config.image_mean, self.config.image_std),
        }
