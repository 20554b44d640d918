"""Files that a processor may open: an author's own, or whichever of the judge's it takes. Imports no torch."""

from __future__ import annotations

import wave
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loongforge_core.component import ProcessedItem, Processor

__all__ = ["KINDS_OF_FILES", "opened_examples"]

Write = Callable[[Path, np.random.Generator, int], Path]
"""Writes the file of this number under a path without suffix, and says where it is."""

PICTURES = ((37, 53), (24, 24), (61, 20), (45, 31))
SOUNDS = (3201, 7999, 5000, 9100)
ROWS = (37, 64, 5, 90)


def picture(path: Path, random: np.random.Generator, number: int) -> Path:
    size = PICTURES[number] if number < len(PICTURES) else random.integers(17, 70, 2)
    return save_picture(path.with_suffix(".png"), random, size)


def save_picture(path: Path, random: np.random.Generator, size: Sequence[int] | np.ndarray) -> Path:
    from PIL import Image

    Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def film(path: Path, random: np.random.Generator, number: int) -> Path:
    """A folder of pictures, one a frame."""
    path.mkdir()
    for frame in range(number % 3 + 1):
        save_picture(path / f"{frame:04d}.png", random, PICTURES[number % len(PICTURES)])
    return path


def sound(path: Path, random: np.random.Generator, number: int) -> Path:
    length = SOUNDS[number] if number < len(SOUNDS) else int(random.integers(1000, 9500))
    with wave.open(str(path.with_suffix(".wav")), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(random.integers(-(2**14), 2**14, length, dtype=np.int16).tobytes())
    return path.with_suffix(".wav")


def row(path: Path, random: np.random.Generator, number: int) -> Path:
    length = ROWS[number] if number < len(ROWS) else int(random.integers(1, 100))
    np.save(path.with_suffix(".npy"), random.normal(size=length).astype(np.float32))
    return path.with_suffix(".npy")


def table(path: Path, random: np.random.Generator, number: int) -> Path:
    length = ROWS[number] if number < len(ROWS) else int(random.integers(1, 100))
    np.save(path.with_suffix(".npy"), random.normal(size=(length, 3)).astype(np.float32))
    return path.with_suffix(".npy")


KINDS_OF_FILES: Mapping[str, Write] = {
    "pictures (PNG)": picture,
    "sounds (WAV, 16 kHz)": sound,
    "rows of numbers (.npy)": row,
    "tables of numbers with three columns (.npy)": table,
    "folders of pictures": film,
}


def opened_examples(processor: Processor[Any], folder: Path, number: int, seed: int = 0) -> list[tuple[Path, ProcessedItem]]:
    """So many files and what the processor makes of them, or the author's, however many; none where it opens none of the judge's."""
    own = folder / "examples"
    own.mkdir(parents=True)
    if paths := processor.examples(own, np.random.default_rng(seed)):
        return [(path, processor(path)) for path in paths]
    for index, write in enumerate(KINDS_OF_FILES.values()):
        place = folder / str(index)
        place.mkdir()
        random = np.random.default_rng(seed)
        paths = [write(place / f"{each:02d}", random, each) for each in range(number)]
        try:
            return [(path, processor(path)) for path in paths]
        except Exception:  # whatever a stranger's processor says to a file of another kind
            continue
    return []
