"""SigLIP's vision tower (Zhai et al. 2023, arXiv:2303.15343) on Megatron's transformer layers.

Reference: `transformers.SiglipVisionModel`. Left out: running the attention-pooling head (its tensors are carried), other
resolutions than the config's.

Shapes: b images, s patches, h width, N = b * s, C channels, H and W image sides, p patch side.
"""

from __future__ import annotations

import torch
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.spec_utils import build_module
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from loongforge_core.component import InitialValues
from loongforge_core.layers.interfaces import BuildContext, Encoder, Features, Items
from loongforge_core.layers.norms import LayerNorm
from loongforge_core.layers.specs import block_spec, layer_spec
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_vit.siglip.config import SiglipConfig

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


class SiglipEncoder(Encoder[SiglipConfig]):
    """Images of one size -> a feature for each patch, row by row."""

    def __init__(self, config: SiglipConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        megatron = transformer_config(config, context)
        layer = layer_spec(megatron, context.backend, mask=AttnMaskType.no_mask)
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        self.position_embedding = nn.Embedding(config.num_tokens((config.image_size, config.image_size)), config.hidden_size)
        self.transformer = TransformerBlock(
            config=megatron,
            spec=block_spec(megatron, context.backend, [layer] * config.num_layers_run),
            post_layer_norm=False,
            pg_collection=context.groups,
        )
        self.unused_layers = nn.ModuleList(
            build_module(layer, config=megatron, layer_number=number, pg_collection=context.groups)
            for number in range(config.num_layers_run + 1, config.num_layers + 1)
        )
        self.post_layernorm = LayerNorm(megatron, config.hidden_size, config.layernorm_epsilon)
        self.head = PoolingHead(config) if config.attention_pooling_head else None
        for carried in (self.unused_layers, None if config.final_norm else self.post_layernorm, self.head):
            if carried is not None:
                carried.requires_grad_(False)

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def forward(self, items: Items) -> Features:
        """`pixel_values` [b, C, H, W], normalised as the processor does."""
        hidden_bsh = self.embed(items.inputs["pixel_values"])
        hidden_sbh = self.transformer(hidden_states=hidden_bsh.transpose(0, 1).contiguous(), attention_mask=None)
        if self.config.final_norm:
            hidden_sbh = self.post_layernorm(hidden_sbh)
        hidden_Nh = hidden_sbh.transpose(0, 1).flatten(0, 1)
        return Features(hidden_Nh, tuple(self.config.token_grid(size) for size in items.sizes))

    def embed(self, pixels_bCHW: Tensor) -> Tensor:
        """Patches and their positions, `[b, s, h]`. A convolution whose stride is its size is one matrix product, which is faster."""
        patch = self.config.patch_size
        rows, columns = self.config.token_grid(pixels_bCHW.shape[-2:])
        pixels = pixels_bCHW[..., : rows * patch, : columns * patch].to(self.patch_embedding.weight.dtype)
        patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        embedded_bsh = F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        return embedded_bsh + self.position_embedding.weight
