"""InternVL's projector: pixel shuffle, norm, linear, GELU, linear (Chen et al. 2024, arXiv:2404.16821).

Reference: `transformers.models.internvl.modeling_internvl.InternVLModel.pixel_shuffle` and `InternVLMultiModalProjector`.

Shapes: N features of all items, n = N / 4, W width, t tiles, r and c half as many rows and columns as there are in a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loongforge_core.component import InitialValues, Shape
from loongforge_core.layers.interfaces import BuildContext, Features, Projector
from loongforge_projectors.intern_mlp.config import BLOCK, InternMlpConfig

__all__ = ["InternMlpProjector", "pixel_shuffle"]


class InternMlpProjector(Projector[InternMlpConfig]):
    """Replicated over its encoder's tensor ranks."""

    def __init__(self, config: InternMlpConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        between = config.ffn_hidden_size or config.hidden_size
        norm = nn.LayerNorm if config.normalization == "LayerNorm" else nn.RMSNorm
        self.layer_norm = norm(config.shuffled_size, eps=config.layernorm_epsilon)
        self.linear_1 = nn.Linear(config.shuffled_size, between)
        self.linear_2 = nn.Linear(between, config.hidden_size)

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def forward(self, features: Features) -> Features:
        hidden, *levels = (self.project(pixel_shuffle(each, features.grids)) for each in (features.hidden_NW, *features.levels))
        return Features(hidden, tuple(self.config.token_grid(grid) for grid in features.grids), tuple(levels))

    def project(self, hidden_nW: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(self.layer_norm(hidden_nW))))


def pixel_shuffle(hidden_NW: Tensor, grids: Sequence[Shape]) -> Tensor:
    """Every block of two rows and two columns side by side, row by row, `[n, 4 * W]`. Blocks lie where they were, row by row."""
    shuffled, start = [], 0
    for (rows, columns), equal in groupby(grids, lambda grid: grid[-2:]):
        # Neighbours of one shape are shuffled at once.
        end = start + sum(map(math.prod, equal))
        blocks = hidden_NW[start:end].view(-1, rows // BLOCK, BLOCK, columns // BLOCK, BLOCK, hidden_NW.shape[-1])
        shuffled.append(blocks.transpose(2, 3).flatten(3).flatten(0, 2))
        start = end
    return torch.cat(shuffled)
