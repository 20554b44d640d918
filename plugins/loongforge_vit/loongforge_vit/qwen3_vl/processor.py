"""Images and videos for Qwen3-VL: a video's limits are those of all its frames together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loongforge_vit.native_resolution.processor import NativeResolutionProcessor, fit_pixels
from loongforge_vit.qwen3_vl.config import Qwen3VlConfig

__all__ = ["Qwen3VlProcessor"]


class Qwen3VlProcessor(NativeResolutionProcessor[Qwen3VlConfig]):
    """As transformers' `Qwen2VLImageProcessorPil` and, frames being resized by Pillow, its `Qwen3VLVideoProcessor`."""

    def target(self, frames: int, height: int, width: int) -> tuple[int, int]:
        config = self.config
        if self.modality != "video":
            return super().target(frames, height, width)
        # Smaller frames are enlarged to a block first.
        scale = max(1, config.block_size / height, config.block_size / width)
        return fit_pixels(
            int(height * scale),
            int(width * scale),
            config.block_size,
            fewest=config.video_min_pixels,
            most=config.video_max_pixels,
            frames=frames,
            steps_of=config.temporal_patch_size,
        )

    def published(self) -> Mapping[str, Any]:
        """Of a video, what a `video_preprocessor_config.json` says: of films too, of which it takes as many frames as a folder has."""
        if self.modality != "video":
            return super().published()
        return {
            "video_processor_type": "Qwen3VLVideoProcessor",
            "size": {"shortest_edge": self.config.video_min_pixels, "longest_edge": self.config.video_max_pixels},
            "fps": self.config.frames_per_second,
            "cap_pixels_per_frame": False,  # a limit of single frames, which is to become the default
            **self.published_patches(),
        }
