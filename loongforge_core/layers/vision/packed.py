"""Layers over packed patches, which attend within their stretch of the row: an item, a frame, a window.

Shapes: N patches of all items, h width, s = N and b = 1 in Megatron's layers, n heads, d head width, w stretches of one length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from megatron.core.tensor_parallel import checkpoint
from megatron.core.transformer import ModuleSpec
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from loongforge_core.component import Backend, Shape
from loongforge_core.layers.packing import PackedRow, packed_row
from loongforge_core.layers.specs import LevelLayer, layer_spec
from loongforge_core.layers.vision.order import reorder, rows_to_windows

__all__ = [
    "FrameLayer",
    "PackedItems",
    "PackedWindows",
    "embed_patches",
    "pack",
    "pack_frames",
    "pack_windows",
    "packed_layer_spec",
    "run_layers",
]


@dataclass
class PackedItems(PackedRow):
    """Stretches of a packed row that attend within themselves, frames for example."""

    runs: tuple[tuple[int, int], ...] = ()
    """The lengths in short: how many stretches of which length, one run behind another."""


@dataclass(kw_only=True)
class PackedWindows(PackedItems):
    """Windows, and what those layers need to know whose patches attend to whole frames."""

    frames: PackedItems
    by_frame: Tensor
    """`[N]`: for each patch, frame by frame, its place window by window."""
    by_window: Tensor
    """The other way round."""


def pack(lengths: Sequence[int], device: torch.device) -> PackedItems:
    """What layers are told of stretches so many patches long."""
    runs = tuple((len(list(equal)), length) for length, equal in groupby(lengths))
    return PackedItems(**vars(packed_row(lengths, device=device)), runs=runs)


def pack_windows(sizes: Iterable[Shape], side: int, device: torch.device) -> PackedWindows:
    """Every window is a stretch, in the order of `rows_to_windows`."""
    sizes = tuple(sizes)
    by_window, lengths = rows_to_windows(sizes, side)
    by_frame = torch.argsort(by_window).to(device, non_blocking=True)
    return PackedWindows(
        **vars(pack(lengths, device)),
        frames=pack_frames(sizes, device),
        by_frame=by_frame,
        by_window=by_window.to(device, non_blocking=True),
    )


def pack_frames(sizes: Iterable[Shape], device: torch.device) -> PackedItems:
    """Every frame of every item is a stretch."""
    return pack([rows * columns for frames, rows, columns in sizes for _ in range(frames)], device)


class PackedAttention(nn.Module):
    """Every patch attends to all of its own stretch. Stands where Megatron's specs name `core_attention`, for the torch backend.

    Stretches of one length are one call: hundreds of windows, each in a call of its own, would take most of the time to be called.
    """

    def __init__(self, config: Any, softmax_scale: float | None = None, **_: Any) -> None:
        super().__init__()
        assert config.context_parallel_size == 1, "encoders run without context parallelism"
        self.scale = softmax_scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, packed_seq_params: PackedItems, **__: Any) -> Tensor:
        """Heads `[N, n, d]` -> `[N, n, d]`."""
        # Split, not sliced: gradients of slices would each be as long as the whole row.
        rows = [number * length for number, length in packed_seq_params.runs]
        pieces = zip(packed_seq_params.runs, *(torch.split(heads, rows) for heads in (query, key, value)), strict=True)
        return torch.cat([self.attend(run, q, k, v) for run, q, k, v in pieces])

    def attend(self, run: tuple[int, int], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (heads.view(*run, *heads.shape[1:]).transpose(1, 2) for heads in (query, key, value))  # [w, n, length, d]
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(0, 1)


class FrameLayer(LevelLayer):
    """A layer whose patches attend to their frame, where they lie window by window."""

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, *args: Any, rotary_pos_emb: Tensor, packed_seq_params: PackedWindows, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        windows = packed_seq_params
        hidden_sbh, levels_lsbh = super().forward(
            reorder(hidden_states, windows.by_frame),
            *args,
            rotary_pos_emb=rotary_pos_emb[:, windows.by_frame],
            packed_seq_params=windows.frames,
            **kwargs,
        )
        return reorder(hidden_sbh, windows.by_window), levels_lsbh


def packed_layer_spec(config: Any, backend: Backend, *, layer: type[LevelLayer] = LevelLayer) -> ModuleSpec:
    """A layer over packed items, whose patches attend to their stretch; `FrameLayer` for those of few layers that look beyond windows."""
    spec = layer_spec(config, backend, mask=AttnMaskType.no_mask)
    spec.module = layer
    if backend == "torch":
        spec.submodules.self_attention.submodules.core_attention = PackedAttention
    return spec


def embed_patches(projection: nn.Conv2d | nn.Conv3d, pixels: Tensor) -> Tensor:
    """Flattened patches `[N, channels * frames * side * side]` -> `[N, h]`: a kernel as large as a patch makes one matrix product."""
    return F.linear(pixels.to(projection.weight.dtype), projection.weight.flatten(1), projection.bias)


def run_layers(
    block: TransformerBlock, hidden_sbh: Tensor, rotation: Tensor, packed: PackedItems, *, levels: Sequence[int] = ()
) -> tuple[Tensor, list[Tensor]]:
    """What the block's layers make of `hidden_sbh`, and the output of each of `levels`, numbered from 0.

    Megatron's block, before 0.19, keeps to itself what its layers emit; a layer that put its output aside would, when it is recomputed,
    put aside something that no gradient passes. So the layers are called here, and recomputed one by one as the block does it.
    """

    def call(layer: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        def run(hidden_sbh: Tensor, rotation: Tensor) -> Tensor:
            output: Tensor = layer(hidden_sbh, attention_mask=None, rotary_pos_emb=rotation, packed_seq_params=packed)[0]
            return output

        return run

    recompute = block.config.recompute_granularity == "full" and block.training
    kept = []
    for index, layer in enumerate(block.layers):
        # Where neither needs a gradient, a layer that is recomputed would get none for its weights.
        recomputed = recompute and (hidden_sbh.requires_grad or rotation.requires_grad)
        run = partial(checkpoint, call(layer), False) if recomputed else call(layer)
        hidden_sbh = run(hidden_sbh, rotation)
        if index in levels:
            kept.append(hidden_sbh)
    return hidden_sbh, kept
