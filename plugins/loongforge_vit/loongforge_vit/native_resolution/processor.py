"""An image or video -> patches of its own number and aspect ratio, as transformers' `Qwen2VLImageProcessorPil` makes them, bit for bit.

Sides become multiples of a block of patches, so that the pixels are within the config's limits and the shape hardly changes. Patches come
block by block of neighbours that are to be merged; the blocks of a frame row by row, the frames in their order.

All frames of a video are seen (`videos.py`).

Shapes: F frames of a video, t steps of `temporal_patch_size` frames, C channels, H rows and W columns of pixels, N patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from loongforge_core.component import Augmentation, ProcessedItem, Processor, Shape
from loongforge_core.errors import DataError
from loongforge_core.media.images import normalised, open_rgb
from loongforge_vit.images import check_rgb, published_pixels
from loongforge_vit.native_resolution.config import MOST_ELONGATED, NativeResolutionConfig
from loongforge_vit.videos import video_frames

__all__ = ["NativeResolutionProcessor", "fit_pixels", "patches"]

ConfigT = TypeVar("ConfigT", bound=NativeResolutionConfig)


class NativeResolutionProcessor(Processor[ConfigT]):
    """Emits `pixel_values` `[N, C * frames * side * side]` float32; the size is `(t, rows, columns)` in patches.

    A video's details are `timestamps`, seconds from its start to the middle of each step, and `seconds_per_step`.
    """

    def __init__(self, config: ConfigT, modality: str = "image") -> None:
        super().__init__(config, modality)
        check_rgb(config.num_channels)

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        if self.modality == "video":
            return self.video(path)
        pixels, size = self.pixels([open_rgb(path)], path)
        return ProcessedItem({"pixel_values": pixels}, size)

    def video(self, path: Path) -> ProcessedItem:
        files, frames_per_second = video_frames(path, self.config.frames_per_second)
        frames = [open_rgb(file) for file in files]
        if different := [file for file, frame in zip(files, frames, strict=True) if frame.size != frames[0].size]:
            raise DataError(f"{path}: frames of one video have one size, but {different[0].name} has another than {files[0].name}")
        pixels, size = self.pixels(frames, path)
        depth = self.config.temporal_patch_size
        times = [index / frames_per_second for index in (*range(len(frames)), *[len(frames) - 1] * (-len(frames) % depth))]
        middles = tuple((first + last) / 2 for first, last in zip(times[::depth], times[depth - 1 :: depth], strict=True))
        return ProcessedItem({"pixel_values": pixels}, size, {"timestamps": middles, "seconds_per_step": depth / frames_per_second})

    def pixels(self, frames: Sequence[Image.Image], path: Path) -> tuple[np.ndarray, Shape]:
        try:
            height, width = self.target(len(frames), frames[0].height, frames[0].width)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        mean, std = self.config.image_mean, self.config.image_std
        frames_FCHW = np.stack([normalised(frame.resize((width, height), Image.Resampling.BICUBIC), mean, std) for frame in frames])
        return patches(frames_FCHW, self.config)

    def target(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Height and width at which the model sees so many frames, by default those of an image. Raises ValueError if too elongated."""
        return fit_pixels(height, width, self.config.block_size, fewest=self.config.min_pixels, most=self.config.max_pixels)

    def published(self) -> Mapping[str, Any]:
        return {
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {"shortest_edge": self.config.min_pixels, "longest_edge": self.config.max_pixels},
            **self.published_patches(),
        }

    def published_patches(self) -> Mapping[str, Any]:
        """What the settings of processors for images and for videos have in common."""
        return {
            **published_pixels(self.config.image_mean, self.config.image_std),
            "patch_size": self.config.patch_size,
            "temporal_patch_size": self.config.temporal_patch_size,
            "merge_size": self.config.spatial_merge_size,
        }


def fit_pixels(height: int, width: int, block: int, *, fewest: int, most: int, frames: int = 1, steps_of: int = 1) -> tuple[int, int]:
    """The sides nearest to these that are multiples of `block`, scaled if an item has more pixels than `most` or less than `fewest`.

    Pixels are those of all `frames`, whose number is rounded to steps before they are counted, and not where they set the scale. Raises
    ValueError for sides whose ratio is beyond `MOST_ELONGATED`.
    """
    if max(height, width) > MOST_ELONGATED * min(height, width):
        raise ValueError(f"{height} x {width} pixels are too elongated: one side is more than {MOST_ELONGATED} times the other")
    rows, columns = round(height / block), round(width / block)
    counted = max(1, round(frames / steps_of)) * steps_of * rows * columns * block**2
    pixels = frames * height * width
    if counted > most:
        shrink = math.sqrt(pixels / most)
        rows, columns = (max(1, math.floor(side / shrink / block)) for side in (height, width))
    elif counted < fewest:
        stretch = math.sqrt(fewest / pixels)
        rows, columns = (math.ceil(side * stretch / block) for side in (height, width))
    return rows * block, columns * block


def patches(frames_FCHW: np.ndarray, config: NativeResolutionConfig) -> tuple[np.ndarray, Shape]:
    """`[N, C * depth * side * side]` and `(t, rows, columns)`. Steps that lack frames repeat the last one."""
    side, merge, depth = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    missing = -len(frames_FCHW) % depth
    frames_FCHW = np.concatenate([frames_FCHW, np.repeat(frames_FCHW[-1:], missing, axis=0)])
    frames, channels, height, width = frames_FCHW.shape
    steps, rows, columns = frames // depth, height // side, width // side
    cut = frames_FCHW.reshape(steps, depth, channels, rows // merge, merge, side, columns // merge, merge, side)
    # [t, blocks down, blocks across, down and across in a block, C, depth, side, side]
    ordered = cut.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return ordered.reshape(steps * rows * columns, channels * depth * side * side), (steps, rows, columns)
