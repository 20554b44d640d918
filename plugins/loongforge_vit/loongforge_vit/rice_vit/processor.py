"""Images and videos for RICE-ViT: each frame is an image of its own."""

from __future__ import annotations

from loongforge_vit.native_resolution.processor import NativeResolutionProcessor
from loongforge_vit.rice_vit.config import RiceVitConfig

__all__ = ["RiceVitProcessor"]


class RiceVitProcessor(NativeResolutionProcessor[RiceVitConfig]):
    """As transformers' `Qwen2VLImageProcessorPil`, with one frame in a patch."""
