"""An image file -> pixels, as transformers' processors with Pillow make them, bit for bit.

Turned upright by its EXIF orientation first, as `transformers.image_utils.load_image` does; transparency is laid over white.

Shapes: H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from loongforge_core.errors import DataError

__all__ = ["check_rgb", "normalised", "open_rgb", "published_pixels"]


def check_rgb(num_channels: int) -> None:
    """Raises DataError for an encoder that looks at something else than the three channels of an image."""
    if num_channels != 3:
        raise DataError(f"num_channels is {num_channels}, but images are opened as RGB; expected 3")


def open_rgb(path: Path) -> Image.Image:
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


def normalised(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """`[3, H, W]` float32, from 0 to 1 before the mean is taken off."""
    # float64 and the order of operations are transformers': they decide the last bit.
    scaled_HWC = (np.asarray(image).astype(np.float64) * (1 / 255)).astype(np.float32)
    pixels_HWC = (scaled_HWC - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))


def published_pixels(mean: Sequence[float], std: Sequence[float]) -> Mapping[str, Any]:
    """What a `preprocessor_config.json` says of `open_rgb`, of bicubic resizing, and of `normalised`."""
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": int(Image.Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _rgb(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
