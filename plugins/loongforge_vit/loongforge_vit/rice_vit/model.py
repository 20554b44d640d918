"""RICE-ViT (Xie et al. 2025, arXiv:2507.20025) on Megatron's transformer layers: the tower of LLaVA-OneVision 1.5 (arXiv:2509.23661).

transformers has no such class; the closest is `MLCDVisionModel`, for squares. The reference is `RiceTransformerPretrainedModel` of the
repository EvolvingLMMs-Lab/LLaVA-OneVision-1.5 without its merger, which is the projector `patch_merger`. Left out: nothing.

Each frame has a class token, which takes part in its attention and is dropped behind the last layer. Its rotary angles are learned. Pixels
come as processors write them, block by block of neighbours that are to be merged. Features leave frame by frame, row by row.

Shapes: N patches of all items, T those and the class tokens, h width, s sequence (T), b batch (1), n heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region
from megatron.core.transformer import ModuleSpec
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor, nn

from loongforge_core.component import Initial, InitialValues, Shape
from loongforge_core.layers.attention import RotarySelfAttention
from loongforge_core.layers.interfaces import BuildContext, Encoder, Features, Items
from loongforge_core.layers.norms import LayerNorm
from loongforge_core.layers.rotary import rotate
from loongforge_core.layers.specs import block_spec
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_core.layers.vision.order import blocks_to_rows, reorder
from loongforge_core.layers.vision.packed import PackedItems, embed_patches, pack, packed_layer_spec, run_layers
from loongforge_core.layers.vision.positions import GridAngles
from loongforge_vit.rice_vit.config import RiceVitConfig

__all__ = ["RiceVitEncoder"]


class RiceVitEncoder(Encoder[RiceVitConfig]):
    """Images and videos of any size -> a feature for each patch."""

    def __init__(self, config: RiceVitConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        megatron = transformer_config(config, context)
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.class_position = nn.Parameter(torch.empty(1, config.head_size // 2))
        self.rotary = GridAngles(config.head_size, config.rotary_base)
        self.pre_layernorm = LayerNorm(megatron, config.hidden_size, config.layernorm_epsilon)
        layer = packed_layer_spec(megatron, context.backend)
        cast(ModuleSpec, layer.submodules.self_attention).module = ClassTokenAttention
        self.transformer = TransformerBlock(
            config=megatron,
            spec=block_spec(megatron, context.backend, [layer] * config.num_layers),
            post_layer_norm=False,
            pg_collection=context.groups,
        )

    def initial_values(self) -> InitialValues:
        first = {"class_embedding": Initial("normal", self.config.hidden_size**-0.5), "class_position": Initial("normal", 1.0)}
        return InitialValues.transformer(self.config.init_method_std, first)

    def forward(self, items: Items) -> Features:
        """`pixel_values` [N, channels * side * side], normalised as the processor does."""
        patches_Nh = embed_patches(self.patch_embedding, items.inputs["pixel_values"])
        patches_Nh = reorder(patches_Nh, blocks_to_rows(items.sizes, self.config.spatial_merge_size))
        tokens_Th = with_class_tokens(patches_Nh, self.class_embedding, items.sizes)
        rotation_N2 = self.rotary(items.sizes, patches_Nh.device).transpose(0, 1)
        rotation_T2 = with_class_tokens(rotation_N2, self.class_rotation(), items.sizes)
        lengths = [1 + rows * columns for frames, rows, columns in items.sizes for _ in range(frames)]
        hidden_sbh, _ = run_layers(
            self.transformer,
            self.pre_layernorm(tokens_Th).unsqueeze(1),
            rotation_T2.transpose(0, 1),
            pack(lengths, patches_Nh.device),
        )
        grids = tuple(self.config.token_grid(size) for size in items.sizes)
        return Features(without_class_tokens(hidden_sbh.squeeze(1), items.sizes), grids)

    def class_rotation(self) -> Tensor:
        """`[2, 1, 1, d / 2]`, as `GridAngles` gives a patch's. Tensor ranks, which rotate some of the heads each, add up its gradient."""
        angles = self.class_position.float()
        rotation = torch.stack((angles.cos(), angles.sin())).unsqueeze(1)
        whole: Tensor = copy_to_tensor_model_parallel_region(rotation, group=self.context.groups.tp)
        return whole


def with_class_tokens(patches: Tensor, token: Tensor, sizes: Iterable[Shape]) -> Tensor:
    """`[N, ...]` -> `[T, ...]`: `token` before each frame's patches."""
    framed = by_frame(patches, [(frames, rows * columns) for frames, rows, columns in sizes])
    return torch.cat([torch.cat((token.expand(len(each), 1, *token.shape), each), dim=1).flatten(0, 1) for each in framed])


def without_class_tokens(tokens: Tensor, sizes: Iterable[Shape]) -> Tensor:
    """`[T, ...]` -> `[N, ...]`."""
    framed = by_frame(tokens, [(frames, 1 + rows * columns) for frames, rows, columns in sizes])
    return torch.cat([each[:, 1:].flatten(0, 1) for each in framed])


def by_frame(rows: Tensor, items: list[tuple[int, int]]) -> list[Tensor]:
    """Each item's rows, `[frames, length, ...]`."""
    pieces = rows.split([frames * length for frames, length in items])
    return [piece.view(*item, *rows.shape[1:]) for piece, item in zip(pieces, items, strict=True)]


class ClassTokenAttention(RotarySelfAttention):
    """Rotary attention whose class tokens, the first of every stretch, turn by angles that are learned.

    `rotate` has no gradient for angles, of which a patch's need none. Class tokens are turned once more beside it, with one.
    """

    def forward(self, *args: Any, packed_seq_params: PackedItems, **kwargs: Any) -> Any:
        self.class_tokens: Tensor | None = packed_seq_params.cu_seqlens_q[:-1].long()
        try:
            return super().forward(*args, packed_seq_params=packed_seq_params, **kwargs)
        finally:
            self.class_tokens = None

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
        query, key, *rest = SelfAttention.get_query_key_value_tensors(self, *args, **kwargs)
        return self.turn(query), self.turn(key), *rest

    def turn(self, heads_sbnd: Tensor) -> Tensor:
        assert self.rotation is not None and self.class_tokens is not None
        turned = rotate(heads_sbnd, self.rotation.detach())
        cosine, sine = self.rotation[:, self.class_tokens]
        first, second = heads_sbnd[self.class_tokens].chunk(2, dim=-1)
        learned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
        return turned.index_copy(0, self.class_tokens, learned.to(turned.dtype))
