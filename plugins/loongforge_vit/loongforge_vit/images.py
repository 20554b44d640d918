"""What processors of images share, beside `loongforge_core.media.images`, which opens them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from loongforge_core.errors import DataError

__all__ = ["check_rgb", "published_pixels"]


def check_rgb(num_channels: int) -> None:
    """Raises DataError for an encoder that looks at something else than the three channels of an image."""
    if num_channels != 3:
        raise DataError(f"num_channels is {num_channels}, but images are opened as RGB; expected 3")


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
