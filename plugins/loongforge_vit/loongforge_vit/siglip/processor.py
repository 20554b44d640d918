"""An image file -> SigLIP's pixels, as `transformers.SiglipImageProcessorPil` makes them, bit for bit.

Turned upright by its EXIF orientation first, as `transformers.image_utils.load_image` does; transparency is laid over white.
A training image may be distorted: moved and stretched, with bilinear interpolation, its border repeated outwards.

Shapes: H rows, W columns, both the config's `image_size`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from loongforge_core.component import Augmentation, ProcessedItem, Processor
from loongforge_core.errors import DataError
from loongforge_vit.siglip.config import SiglipConfig

__all__ = ["SiglipAugmentation", "SiglipProcessor"]

CACHED_IMAGES = 4096
CACHED_BYTES = 16 * 1024
"""An image whose pixels take no more than this is opened once: opening it takes longer than everything else."""


class SiglipAugmentation(BaseModel):
    """How far a training image may be moved and stretched, each axis on its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    translate: float = Field(0.0, ge=0, lt=1)
    """Largest shift, as a share of the image's side."""
    stretch: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of scale."""
    ramp: float = Field(0.5, ge=0, le=1)
    """Share of the run over which both rise from nothing to full."""


class SiglipProcessor(Processor[SiglipConfig]):
    """Emits `pixel_values` `[1, 3, H, W]` float32, -1 to 1 at the published mean and deviation; the size is (H, W)."""

    augment_config = SiglipAugmentation

    def __init__(self, config: SiglipConfig, modality: str = "image") -> None:
        super().__init__(config, modality)
        if config.num_channels != 3:
            raise DataError(f"num_channels is {config.num_channels}, but images are opened as RGB; expected 3")
        self._small_images: OrderedDict[str, np.ndarray] = OrderedDict()

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        pixels = self._pixels(path)
        if augmentation is not None:
            pixels = distort(pixels, *_draw(augmentation))
        return ProcessedItem({"pixel_values": pixels}, (self.config.image_size, self.config.image_size))

    def published(self) -> Mapping[str, Any]:
        side = self.config.image_size
        return {
            "image_processor_type": "SiglipImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": side, "width": side},
            "resample": int(Image.Resampling.BICUBIC),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.config.image_mean),
            "image_std": list(self.config.image_std),
        }

    def _pixels(self, path: Path) -> np.ndarray:
        """The undistorted pixels. Small ones are kept, so they must not be written to."""
        name = str(path)  # a path is slow to compare
        if (known := self._small_images.get(name)) is not None:
            self._small_images.move_to_end(name)
            return known
        side = self.config.image_size
        image = np.asarray(_open(path).resize((side, side), Image.Resampling.BICUBIC))
        # float64 and the order of operations are transformers': they decide the last bit.
        scaled_HWC = (image.astype(np.float64) * (1 / 255)).astype(np.float32)
        mean, std = np.array(self.config.image_mean, dtype=np.float32), np.array(self.config.image_std, dtype=np.float32)
        pixels = np.ascontiguousarray(((scaled_HWC - mean) / std).transpose(2, 0, 1)[None])
        pixels.setflags(write=False)
        if pixels.nbytes <= CACHED_BYTES:
            self._small_images[name] = pixels
            if len(self._small_images) > CACHED_IMAGES:
                self._small_images.popitem(last=False)
        return pixels


def distort(pixels: np.ndarray, scale_2: np.ndarray, shift_2: np.ndarray) -> np.ndarray:
    """Square images `[1, C, H, W]` stretched about their centre, then moved by a share of their side; rows first, columns second.

    Along each axis, pixel i shows the input at `(i - centre) / scale + centre - shift`: one sparse matrix for each.
    Being linear, this may come after normalisation.
    """
    side = pixels.shape[-1]
    centre, places = (side - 1) / 2, np.arange(side, dtype=np.float32)
    source = (places - centre) / scale_2[:, None] + centre - shift_2[:, None] * side
    source = source.clip(0, side - 1)  # the border's pixels, repeated outwards
    rows, columns = np.maximum(0, 1 - np.abs(source[:, :, None] - places))  # [side, side] each: weights of the input's pixels
    return rows @ pixels @ columns.T


def _draw(augmentation: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """Scales and shifts for rows and columns."""
    settings = augmentation.settings
    assert isinstance(settings, SiglipAugmentation)
    strength = min(1.0, augmentation.progress / settings.ramp) if settings.ramp else 1.0
    draws = augmentation.random.uniform(-strength, strength, size=(2, 2)).astype(np.float32)
    return 1 + draws[0] * settings.stretch, draws[1] * settings.translate


def _open(path: Path) -> Image.Image:
    """The image, upright, RGB. Raises DataError when there is none."""
    try:
        with Image.open(path) as file:
            file.load()
            return _rgb(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image, or of a kind that Pillow cannot open") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises for a damaged file
        raise DataError(f"{path}: cannot read this image, is it truncated? {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
