"""Images and videos for Qwen2.5-VL: a video's limits are those of each of its frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

    def published(self) -> Mapping[str, Any]:
        """Of a video, what a `video_preprocessor_config.json` says."""
        if self.modality != "video":
            return super().published()
        size = {"shortest_edge": self.config.video_min_pixels, "longest_edge": self.config.video_max_pixels}
        return {"video_processor_type": "Qwen2VLVideoProcessor", "size": size, **self.published_patches()}
