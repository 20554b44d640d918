"""Qwen2.5-VL's vision tower (Bai et al. 2025, arXiv:2502.13923) on Megatron's transformer layers.

Reference: `transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel` without its merger, which is the
projector `patch_merger`. Left out: nothing.

Pixels come as processors write them, block by block of neighbours that are to be merged. Inside, patches lie window by window; features
leave frame by frame, row by row, as every encoder's do: any projector may follow.

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
from loongforge_core.layers.vision.packed import FrameLayer, embed_patches, pack_windows, packed_layer_spec, run_layers
from loongforge_core.layers.vision.positions import GridAngles
from loongforge_vit.qwen2_5_vl.config import Qwen25VlConfig

__all__ = ["Qwen25VlEncoder"]


class Qwen25VlEncoder(Encoder[Qwen25VlConfig]):
    """Images and videos of any size -> a feature for each patch."""

    def __init__(self, config: Qwen25VlConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        megatron = transformer_config(config, context)
        patch = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.patch_embedding = nn.Conv3d(config.num_channels, config.hidden_size, patch, patch, bias=False)
        self.rotary = GridAngles(config.head_size, config.rotary_base)
        window = packed_layer_spec(megatron, context.backend)
        full = packed_layer_spec(megatron, context.backend, layer=FrameLayer)
        layers = [full if index in config.fullatt_block_indexes else window for index in range(config.num_layers)]
        self.transformer = TransformerBlock(
            config=megatron,
            spec=block_spec(megatron, context.backend, layers),
            post_layer_norm=False,
            pg_collection=context.groups,
        )

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def forward(self, items: Items) -> Features:
        """`pixel_values` [N, channels * frames * side * side], normalised as the processor does."""
        patches_Nh = embed_patches(self.patch_embedding, items.inputs["pixel_values"])
        windows = pack_windows(items.sizes, self.config.window_side, patches_Nh.device)
        rows_Nh = reorder(patches_Nh, blocks_to_rows(items.sizes, self.config.spatial_merge_size))
        hidden_sbh, _ = run_layers(
            self.transformer,
            reorder(rows_Nh, windows.by_window).unsqueeze(1),
            self.rotary(items.sizes, rows_Nh.device)[:, windows.by_window],
            windows,
        )
        grids = tuple(self.config.token_grid(size) for size in items.sizes)
        return Features(reorder(hidden_sbh.squeeze(1), windows.by_frame), grids)
