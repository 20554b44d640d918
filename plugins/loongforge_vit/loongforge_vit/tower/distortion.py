"""Distortion of a training image: moved and stretched, with bilinear interpolation, its border repeated outwards.

Shapes: C channels, H rows, W columns, as many as rows.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from loongforge_core.component import Augmentation

__all__ = ["Distortion", "distort", "draw_distortion"]


class Distortion(BaseModel):
    """How far a training image may be moved and stretched, each axis on its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    translate: float = Field(0.0, ge=0, lt=1)
    """Largest shift, as a share of the image's side."""
    stretch: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of scale."""
    ramp: float = Field(0.5, ge=0, le=1)
    """Share of the run over which both rise from nothing to full."""


def distort(pixels: np.ndarray, scale_2: np.ndarray, shift_2: np.ndarray) -> np.ndarray:
    """Square images `[1, C, H, W]` stretched about their centre, then moved by a share of their side; rows first, columns second.

    Along each axis, pixel i shows the input at `(i - centre) / scale + centre - shift`: one sparse matrix for each.
    Being linear, this may come after normalisation.
    """
    side = pixels.shape[-1]
    centre, places = (side - 1) / 2, np.arange(side, dtype=np.float32)
    source = (places - centre) / scale_2[:, None] + centre - shift_2[:, None] * side
    source = source.clip(0, side - 1)  # the border's pixels, repeated outwards
    rows, columns = np.maximum(0, 1 - np.abs(source[:, :, None] - places))  # [side, side] each: weights of the input's pixels
    return rows @ pixels @ columns.T


def draw_distortion(augmentation: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """Scales and shifts for rows and columns."""
    settings = augmentation.settings
    assert isinstance(settings, Distortion)
    strength = min(1.0, augmentation.progress / settings.ramp) if settings.ramp else 1.0
    draws = augmentation.random.uniform(-strength, strength, size=(2, 2)).astype(np.float32)
    return 1 + draws[0] * settings.stretch, draws[1] * settings.translate
