"""Samples as lists of token ids, in which each `IMAGE` stands for the placeholders of the next image."""

from __future__ import annotations

IMAGE = -1
TOKENS_OF_AN_IMAGE = 4
SAMPLES = ([5, IMAGE, 6, 7, IMAGE, 8], [9, 10, 11], [IMAGE, 12], [13, 14, IMAGE, IMAGE, 15, 16, 17])
FIRST_IMAGES = (0, 2, 2, 3)
"""The number of each sample's first image among those of all."""
