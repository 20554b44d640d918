"""Image files of every kind that processors open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


IMAGES: Mapping[str, Callable[[Path], None]] = {
    "rgb.png": lambda path: Image.fromarray(noise(40, 60, 3)).save(path),
    "grey.png": lambda path: Image.fromarray(noise(8, 8)).save(path),
    "1-bit.png": lambda path: Image.fromarray(noise(20, 20)).convert("1").save(path),
    "palette.png": lambda path: Image.fromarray(noise(33, 21, 3)).quantize(16).save(path),
    "photo.jpg": lambda path: Image.fromarray(noise(100, 70, 3)).save(path),
    "cmyk.jpg": lambda path: Image.fromarray(noise(30, 30, 4), mode="CMYK").save(path),
}
