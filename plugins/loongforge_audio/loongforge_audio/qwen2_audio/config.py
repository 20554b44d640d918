"""Qwen2-Audio's encoder: sizes and token counts."""

from __future__ import annotations

from pydantic import PositiveInt

from loongforge_audio.whisper.config import WhisperConfig
from loongforge_core.component import Shape

__all__ = ["Qwen2AudioConfig"]

LOOK_AHEAD = 2
"""Frames behind a sound that the convolutions of its last position see: one each."""


class Qwen2AudioConfig(WhisperConfig):
    """Whisper's encoder on sounds of their own length, pairs of positions averaged before the final norm. The defaults are published."""

    num_layers: PositiveInt = 32
    hidden_size: PositiveInt = 1280
    ffn_hidden_size: PositiveInt = 5120
    num_attention_heads: PositiveInt = 20
    num_mel_bins: PositiveInt = 128

    @property
    def fixed_item_size(self) -> Shape | None:
        return None

    @property
    def typical_item_size(self) -> Shape:
        return (self.max_frames,)

    def largest_item_size(self, modality: str) -> Shape:
        return (self.max_frames,)

    def num_rows(self, size: Shape) -> int:
        """The sound's own frames, and those behind it that its last position sees, as far as there are any."""
        (frames,) = size
        return min(frames + LOOK_AHEAD, self.max_frames)

    def num_positions(self, size: Shape) -> int:
        (frames,) = size
        return (frames + 1) // 2

    def token_grid(self, size: Shape) -> Shape:
        """`size` is (frames,), at most `max_frames`; where positions do not pair up the last one is dropped, so three frames are needed."""
        (frames,) = size
        if not 3 <= frames <= self.max_frames:
            raise ValueError(f"a sound of {frames} frames of 10 ms: expected 3 to {self.max_frames}, twice max_source_positions")
        return (self.num_positions(size) // 2,)
