"""SigLIP's vision tower (Zhai et al. 2023, arXiv:2303.15343) on Megatron's transformer layers.

Reference: `transformers.SiglipVisionModel`. Left out: running the attention-pooling head (its tensors are carried), other
resolutions than the config's.

Shapes: b images, s patches, h width, N = b * s, C channels, H and W image sides.
"""

from __future__ import annotations

import torch
from torch import nn

from loongforge_core.layers.interfaces import BuildContext, Features, Items
from loongforge_core.layers.norms import LayerNorm
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_vit.siglip.config import SiglipConfig
from loongforge_vit.tower.model import TowerEncoder

__all__ = ["SiglipEncoder"]


class PoolingHead(nn.Module):
    """Tensors of the published attention-pooling head. Carried through import and export, never run."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.attention = nn.MultiheadAttention(width, config.num_attention_heads, batch_first=True)
        self.layernorm = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, config.ffn_hidden_size), "fc2": nn.Linear(config.ffn_hidden_size, width)})


class SiglipEncoder(TowerEncoder[SiglipConfig]):
    """Images of one size -> a feature for each patch, row by row."""

    def __init__(self, config: SiglipConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        self.position_embedding = nn.Embedding(config.patches_per_side**2, config.hidden_size)
        self.post_layernorm = LayerNorm(transformer_config(config, context), config.hidden_size, config.layernorm_epsilon)
        self.head = PoolingHead(config) if config.attention_pooling_head else None
        for carried in (None if config.final_norm else self.post_layernorm, self.head):
            if carried is not None:
                carried.requires_grad_(False)

    def forward(self, items: Items) -> Features:
        """`pixel_values` [b, C, H, W], normalised as the processor does."""
        hidden_bsh = self.run_layers(self.patches(items.inputs["pixel_values"]) + self.position_embedding.weight)
        if self.config.final_norm:
            hidden_bsh = self.post_layernorm(hidden_bsh)
        return Features(hidden_bsh.flatten(0, 1), tuple(self.config.token_grid(size) for size in items.sizes))
