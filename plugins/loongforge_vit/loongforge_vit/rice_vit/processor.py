"""Images and videos for RICE-ViT: each frame is an image of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loongforge_vit.native_resolution.processor import NativeResolutionProcessor
from loongforge_vit.rice_vit.config import RiceVitConfig

__all__ = ["RiceVitProcessor"]


class RiceVitProcessor(NativeResolutionProcessor[RiceVitConfig]):
    """As transformers' `Qwen2VLImageProcessorPil`, with one frame in a patch; a video's frames have the limits of images."""

    def published(self) -> Mapping[str, Any]:
        """Of a video, what a `video_preprocessor_config.json` says."""
        settings = dict(super().published())
        if self.modality == "video":
            del settings["image_processor_type"]
            settings["video_processor_type"] = "Qwen2VLVideoProcessor"
        return settings
