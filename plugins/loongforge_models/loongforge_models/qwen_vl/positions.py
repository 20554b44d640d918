"""Positions in time, height and width (M-RoPE; Wang et al. 2024, arXiv:2409.12191). Imports no torch.

Text has the same position on all three axes and goes on behind an item with the first number that is larger than the item's rows and
columns; how long the item lasts does not count. So transformers has it since version 5.3; before, and so while Qwen2.5-VL was trained,
text went on behind the last moment of a video too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from loongforge_core.component import ItemSpan

__all__ = ["mrope_positions"]


def mrope_positions(length: int, spans: Sequence[ItemSpan], interval: Callable[[ItemSpan], float] = lambda span: 1.0) -> np.ndarray:
    """int64 `[3, length]`. A span's tokens lie in `(steps, rows, columns)`; time advances by `interval(span)` from one step to the next."""
    positions = np.empty((3, length), dtype=np.int64)
    written, following = 0, 0
    for span in spans:
        positions[:, written : span.start] = np.arange(following, following + span.start - written)
        following += span.start - written
        steps, rows, columns = (1,) * (3 - len(span.grid)) + tuple(span.grid)
        # Single precision, as in the reference: it decides where a time just below a whole number falls.
        times = (np.arange(steps, dtype=np.float32) * np.float32(interval(span))).astype(np.int64)
        grid = np.meshgrid(times, np.arange(rows), np.arange(columns), indexing="ij")
        written = span.start + span.num_tokens
        positions[:, span.start : written] = following + np.stack(grid).reshape(3, -1)
        following += max(rows, columns)
    positions[:, written:] = np.arange(following, following + length - written)
    return positions
