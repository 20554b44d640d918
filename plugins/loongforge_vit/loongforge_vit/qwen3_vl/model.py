"""Qwen3-VL's vision tower (Bai et al. 2025, arXiv:2511.21631) on Megatron's transformer layers.

Reference: `transformers.Qwen3VLVisionModel` without its mergers, which are the projector `patch_merger`. Left out: nothing.

Pixels come as processors write them, block by block of neighbours that are to be merged. Features and levels leave frame by frame, row by
row, as every encoder's do: any projector may follow.

Shapes: N patches of all items, h width, s sequence (N), b batch (1).
"""

from __future__ import annotations

from megatron.core.transformer.transformer_block import TransformerBlock
from torch import nn

from loongforge_core.component import InitialValues
from loongforge_core.layers.interfaces import BuildContext, Encoder, Features, Items
from loongforge_core.layers.specs import block_spec
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_core.layers.vision.order import blocks_to_rows, reorder
from loongforge_core.layers.vision.packed import embed_patches, pack_frames, packed_layer_spec, run_layers
from loongforge_core.layers.vision.positions import GridAngles, interpolated_positions
from loongforge_vit.qwen3_vl.config import Qwen3VlConfig

__all__ = ["Qwen3VlEncoder"]


class Qwen3VlEncoder(Encoder[Qwen3VlConfig]):
    """Images and videos of any size -> a feature for each patch, and a level from each of `deepstack_visual_indexes`."""

    def __init__(self, config: Qwen3VlConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        megatron = transformer_config(config, context)
        patch = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.patch_embedding = nn.Conv3d(config.num_channels, config.hidden_size, patch, patch)
        self.position_embedding = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.rotary = GridAngles(config.head_size, config.rotary_base)
        self.transformer = TransformerBlock(
            config=megatron,
            spec=block_spec(megatron, context.backend, [packed_layer_spec(megatron, context.backend)] * config.num_layers),
            post_layer_norm=False,
            pg_collection=context.groups,
        )

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def forward(self, items: Items) -> Features:
        """`pixel_values` [N, channels * frames * side * side], normalised as the processor does."""
        patches_Nh = embed_patches(self.patch_embedding, items.inputs["pixel_values"])
        patches_Nh = reorder(patches_Nh, blocks_to_rows(items.sizes, self.config.spatial_merge_size))
        positions_Nh = interpolated_positions(self.position_embedding.weight, items.sizes).to(patches_Nh.dtype)
        hidden_sbh, levels = run_layers(
            self.transformer,
            (patches_Nh + positions_Nh).unsqueeze(1),
            self.rotary(items.sizes, patches_Nh.device),
            pack_frames(items.sizes, patches_Nh.device),
            levels=self.config.deepstack_visual_indexes,
        )
        grids = tuple(self.config.token_grid(size) for size in items.sizes)
        return Features(hidden_sbh.squeeze(1), grids, tuple(level_sbh.squeeze(1) for level_sbh in levels))
