"""InternViT (Chen et al. 2023, arXiv:2312.14238) on Megatron's transformer layers.

Reference: `transformers.InternVLVisionModel`, and OpenGVLab's `InternVisionModel`, which computes the same. Left out: stochastic depth,
mask tokens, a norm behind the last layer, which no published InternViT has, and other resolutions than the config's.

Shapes: b tiles, s patches of a tile, h width, N = b * s, C channels, H and W sides of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer import ModuleSpec
from torch import nn

from loongforge_core.component import Initial, InitialValues
from loongforge_core.layers.attention import AllHeadsNormSelfAttention
from loongforge_core.layers.interfaces import BuildContext, Features, Items
from loongforge_core.layers.linear import without_bias
from loongforge_vit.intern_vit.config import InternVitConfig
from loongforge_vit.intern_vit.layers import ScaledBiasAdd
from loongforge_vit.tower.model import TowerEncoder

__all__ = ["InternVitEncoder"]


class InternVitEncoder(TowerEncoder[InternVitConfig]):
    """Tiles of images -> a feature for each patch, tile by tile, row by row. Tiles do not see each other."""

    def __init__(self, config: InternVitConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.class_embedding = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + config.patches_per_side**2, config.hidden_size))

    def layer(self, megatron: Any) -> ModuleSpec:
        layer = super().layer(megatron)
        scaled = ModuleSpec(module=ScaledBiasAdd, params={"config": megatron})
        layer.submodules.self_attn_bda = layer.submodules.mlp_bda = scaled
        attention = layer.submodules.self_attention
        if not self.config.add_qkv_bias:
            attention.submodules.linear_qkv = without_bias(attention.submodules.linear_qkv)
        if self.config.qk_layernorm:
            attention.module = AllHeadsNormSelfAttention
        return layer

    def initial_values(self) -> InitialValues:
        scale = Initial("constant", self.config.layer_scale_init)
        return InitialValues.transformer(self.config.init_method_std, first={"*_bda.weight": scale})

    def forward(self, items: Items) -> Features:
        """`pixel_values` [b, C, H, W], the tiles of all items one after another, normalised as the processor does."""
        patches_bsh = self.patches(items.inputs["pixel_values"])
        class_b1h = self.class_embedding.expand(len(patches_bsh), -1, -1)
        hidden_bsh = self.run_layers(torch.cat((class_b1h, patches_bsh), dim=1) + self.position_embedding)
        return Features(hidden_bsh[:, 1:].flatten(0, 1), tuple(self.config.token_grid(size) for size in items.sizes))
