"""A video is a folder of frames, in the order of their names, or a JSON file `{"frames": ["0.jpg", ...], "fps": 2.0}` that names them.

Numbers in names count by their value, with or without leading zeros: `9.jpg` is before `10.jpg`.

Choosing some of the frames, and opening films, is left out.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from loongforge_core.errors import DataError
from loongforge_core.media.named_files import named_file, refuse_device
from loongforge_core.strict_json import load_json

__all__ = ["video_frames"]


def video_frames(path: Path, frames_per_second: float) -> tuple[list[Path], float]:
    """The files of a video's frames, and how many there are in a second."""
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
        files.sort(key=lambda file: (numbered(file.name), file.name))
    else:
        files, frames_per_second = listed_frames(path)
    if not files:
        raise DataError(f"{path}: a video without frames")
    return files, frames_per_second


def numbered(name: str) -> list[str | int]:
    """Text and numbers by turns, beginning with text: what two names have at one place can be compared."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"([0-9]+)", name))]


def listed_frames(path: Path) -> tuple[list[Path], float]:
    expected = 'expected a folder of frames, or a JSON file {"frames": ["0.jpg", ...], "fps": 2.0}'
    try:
        tree = load_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such video; {expected}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a video; {expected}") from error
    names, frames_per_second = (tree.get("frames"), tree.get("fps")) if isinstance(tree, dict) else (None, None)
    right = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not right or not isinstance(frames_per_second, int | float) or not 0 < frames_per_second < math.inf:
        raise DataError(f"{path}: not a video; {expected}")
    try:
        files = [named_file(name, path.parent) for name in names]
        for file in files:
            refuse_device(file)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return files, float(frames_per_second)
