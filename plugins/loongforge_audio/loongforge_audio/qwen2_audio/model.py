"""Qwen2-Audio's encoder (Chu et al. 2024, arXiv:2407.10759): Whisper's, with padding masked and pairs of positions averaged.

Reference: `transformers.Qwen2AudioEncoder` under the attention mask that `Qwen2AudioModel` makes for it. There each sound is padded with
silence to thirty seconds, and no position attends to one behind the sound. Here a sound is encoded in its own length, several in one row
without padding, which gives the same features: all that a sound's positions see of the padding is what the convolutions of the last one
see. The processor hands over those two frames too: the logarithm of silence is not zero, and the windows around a sound's end still hear
it.

Shapes: t positions of all sounds, N tokens, h width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loongforge_audio.whisper.model import WhisperEncoder

__all__ = ["Qwen2AudioEncoder"]


class Qwen2AudioEncoder(WhisperEncoder):
    """Log-mel frames -> a feature for every 40 ms of a sound."""

    def pool(self, hidden_th: Tensor, lengths: Sequence[int]) -> Tensor:
        """Means of pairs; a position without a partner is dropped."""
        if any(length % 2 for length in lengths):
            hidden_th = torch.cat([sound_sh[: len(sound_sh) // 2 * 2] for sound_sh in hidden_th.split(list(lengths))])
        return hidden_th.unflatten(0, (-1, 2)).mean(1)
