"""Images and videos for Qwen2.5-VL: a video's limits are those of each of its frames."""

from __future__ import annotations

from loongforge_vit.native_resolution.processor import NativeResolutionProcessor, fit_pixels
from loongforge_vit.qwen2_5_vl.config import Qwen25VlConfig

__all__ = ["Qwen25VlProcessor"]


class Qwen25VlProcessor(NativeResolutionProcessor[Qwen25VlConfig]):
    """As transformers' `Qwen2VLImageProcessorPil` and, frames being resized by Pillow, its `Qwen2VLVideoProcessor`."""

    def target(self, frames: int, height: int, width: int) -> tuple[int, int]:
        config = self.config
        if self.modality != "video":
            return super().target(frames, height, width)
        return fit_pixels(height, width, config.block_size, fewest=config.video_min_pixels, most=config.video_max_pixels)
