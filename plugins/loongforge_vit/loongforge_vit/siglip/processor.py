"""An image file -> SigLIP's pixels, as `transformers.SiglipImageProcessorPil` makes them, bit for bit: resized, whatever its shape was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from loongforge_vit.images import published_pixels
from loongforge_vit.siglip.config import SiglipConfig
from loongforge_vit.tower.processor import SquareProcessor

__all__ = ["SiglipProcessor"]


class SiglipProcessor(SquareProcessor[SiglipConfig]):
    """The square is the whole image: -1 to 1 at the published mean and deviation."""

    def fit(self, image: Image.Image) -> Image.Image:
        return image.resize((self.config.image_size, self.config.image_size), Image.Resampling.BICUBIC)

    def published(self) -> Mapping[str, Any]:
        size = {"height": self.config.image_size, "width": self.config.image_size}
        pixels = published_pixels(self.config.image_mean, self.config.image_std)
        return {"image_processor_type": "SiglipImageProcessor", "size": size, **pixels}
