"""An image file -> the square that a vision model sees, as transformers' processors with Pillow make it.

Turned upright by its EXIF orientation; transparency is laid over white. Greys of more than eight bits are refused: what is white in them
differs from format to format, which loongforge_vit's own encoders know.

Shapes: C colours, H rows, W columns.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from loongforge_core.errors import DataError

__all__ = ["normalised", "open_rgb", "square"]

DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, MemoryError),
    *(struct.error, Image.DecompressionBombError),
)
"""What Pillow raises for damaged files: its decoders look for damage where they expect it only."""
MOST_PIXELS = 2**28
"""Of an image as stored, and as resized: 0.8 GB, where a file of a few bytes could ask for any number."""
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def open_rgb(path: Path) -> Image.Image:
    """The image, upright. Raises DataError naming the file where there is none."""
    try:
        with Image.open(path) as file:
            check_pixels(path, *file.size)
            file.load()
            if file.mode == "F" or file.mode.startswith("I"):
                raise DataError(f"{path}: its greys have more than 8 bits; expected an image of 8 bits a colour")
            return as_rgb(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image, or of a kind that Pillow cannot open") from error
    except DAMAGED as error:
        raise DataError(f"{path}: cannot read this image, is it truncated? {error}") from error


def check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise DataError(f"{path}: {height} x {width} pixels are too many; at most {MOST_PIXELS:,} are made")


def as_rgb(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def square(path: Path, *, side: int, side_before_cut: int, fit: str, resample: str) -> Image.Image:
    """The image in a square: both sides, or the shorter one, brought to `side_before_cut`, and the middle cut out."""
    image = open_rgb(path)
    width = height = side_before_cut
    if fit == "crop":
        shorter = min(image.size)
        width, height = (int(side_before_cut * edge / shorter) for edge in image.size)
        check_pixels(path, width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.resize((width, height), RESAMPLE[resample]).crop((left, top, left + side, top + side))


def normalised(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """`[C, H, W]` float32; colours from 0 to 1 before the mean is taken off."""
    # float64 and the order of operations are transformers': they decide the last bit.
    pixels_HWC = (np.asarray(image).astype(np.float64) * (1 / 255)).astype(np.float32)
    scaled = (pixels_HWC - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
