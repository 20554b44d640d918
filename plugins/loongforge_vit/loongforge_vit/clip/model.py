"""CLIP's vision tower (Radford et al. 2021, arXiv:2103.00020) on Megatron's transformer layers.

Reference: `transformers.CLIPVisionModel`. Left out: the pooled output, whose norm is carried; other resolutions than the config's.

Shapes: b images, s patches, h width, N features, C channels, H and W image sides.
"""

from __future__ import annotations

import torch
from torch import nn

from loongforge_core.layers.interfaces import BuildContext, Features, Items
from loongforge_core.layers.norms import LayerNorm
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_vit.clip.config import ClipConfig
from loongforge_vit.tower.model import TowerEncoder

__all__ = ["ClipEncoder"]


class ClipEncoder(TowerEncoder[ClipConfig]):
    """Images of one size -> a feature for each patch, row by row."""

    def __init__(self, config: ClipConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        megatron = transformer_config(config, context)
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(1 + config.patches_per_side**2, config.hidden_size)
        self.pre_layernorm = LayerNorm(megatron, config.hidden_size, config.layernorm_epsilon)
        self.post_layernorm = LayerNorm(megatron, config.hidden_size, config.layernorm_epsilon).requires_grad_(False)

    def forward(self, items: Items) -> Features:
        """`pixel_values` [b, C, H, W], normalised as the processor does."""
        patches_bsh = self.patches(items.inputs["pixel_values"])
        class_b1h = self.class_embedding.expand(len(patches_bsh), 1, -1)
        embedded_bsh = torch.cat((class_b1h, patches_bsh), dim=1) + self.position_embedding.weight
        hidden_bsh = self.run_layers(self.pre_layernorm(embedded_bsh))
        if self.config.class_token == "dropped":
            hidden_bsh = hidden_bsh[:, 1:]
        return Features(hidden_bsh.flatten(0, 1), tuple(self.config.token_grid(size) for size in items.sizes))
