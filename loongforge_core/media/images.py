"""An image file -> RGB, opened, fitted and scaled as transformers' processors with Pillow do it, bit for bit.

Turned upright by its EXIF orientation first, as `transformers.image_utils.load_image` does; transparency is laid over white. Of greys
of more than eight bits the upper eight are seen, as Pillow sees them of colours; transformers would see white wherever there is more than
1/256 of it.

Shapes: C channels, H rows, W columns, v values of a colour.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from loongforge_core.errors import DataError

__all__ = ["middle", "normalised", "open_rgb", "with_shorter_side"]

DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, MemoryError),
    struct.error,
)
"""What Pillow raises for damaged files: its decoders look for damage where they expect it only."""
MOST_PIXELS = 2**28
"""Of a resized image: 0.8 GB, where a file of a few bytes could ask for any number."""
UNKNOWN = 0
TIFF_BITS, TIFF_ZERO_IS, TIFF_BLACK = 258, 262, 1
"""Tags of a TIFF: bits per sample, and the photometric interpretation, which is 1 where zero is black."""


def open_rgb(path: Path) -> Image.Image:
    """The image, upright, RGB. Raises DataError when there is none, or where nobody knows how bright its greys are."""
    try:
        with opened(path) as file:
            file.load()
            if (bits := bits_of_grey(file)) == UNKNOWN:
                raise DataError(
                    f"{path}: the greys of this {file.format} are {'fractions' if file.mode == 'F' else 'integers'} that do not say which "
                    "is white; expected an image of 8 or 16 bits a colour, such as a PNG"
                )
            upright = ImageOps.exif_transpose(file)
            return rgb(upper_eight_bits(upright, bits) if bits > 8 else upright)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        most = Image.MAX_IMAGE_PIXELS
        raise DataError(f"{path}: larger than {most:,} pixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image, or of a kind that Pillow cannot open") from error
    except DAMAGED as error:
        raise DataError(f"{path}: cannot read this image, is it truncated? {error}") from error


def with_shorter_side(image: Image.Image, length: int, resample: Image.Resampling) -> Image.Image:
    """Resized in its shape. Raises ValueError where that is so elongated that the longer side would fill all memory."""
    shorter = min(image.size)
    width, height = (int(length * side / shorter) for side in image.size)
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{image.height} x {image.width} pixels are too elongated: with the shorter side brought to {length} they would be "
            f"{width * height:,}, and at most {MOST_PIXELS:,} are made"
        )
    return image.resize((width, height), resample)


def middle(image: Image.Image, side: int) -> Image.Image:
    """The square in the middle; what is beyond it is cut off on both ends."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def normalised(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """`[3, H, W]` float32, from 0 to 1 before the mean is taken off."""
    # Of the 256 values that there are; float64 and the order of operations are transformers': they decide the last bit.
    scaled_v1 = (np.arange(256).astype(np.float64) * (1 / 255)).astype(np.float32)[:, None]
    values_vC = (scaled_v1 - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    pixels_HWC = np.asarray(image)
    return np.stack([values_vC[:, channel].take(pixels_HWC[..., channel]) for channel in range(values_vC.shape[1])])


def opened(path: Path) -> Image.Image:
    """Its header is read, and no pixel yet. What Pillow warns of, and takes gigabytes for, is an error: a bomb is a few kilobytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path)


def bits_of_grey(file: Image.Image) -> int:
    """How many bits white has: 8 but where Pillow opens greys as wider numbers; or UNKNOWN."""
    if file.mode != "F" and not file.mode.startswith("I"):
        return 8
    if file.mode != "F" and file.format in ("PNG", "PPM", "JPEG2000"):
        return 16  # what has fewer Pillow brings to as many
    tags = getattr(file, "tag_v2", {})
    if file.mode.startswith("I;16") and tags.get(TIFF_ZERO_IS) == TIFF_BLACK:
        return int(tags[TIFF_BITS][0])
    return UNKNOWN


def upper_eight_bits(image: Image.Image, bits: int) -> Image.Image:
    """Its one transparent grey, where it has one, becomes white."""
    values = np.asarray(image)
    upper = (values >> (bits - 8)).astype(np.uint8)
    upper[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(upper)


def rgb(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
