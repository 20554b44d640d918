"""What vision encoders share that take images and videos of any size, packed one behind another without padding.

An item's size is `(frames, rows, columns)`, counted in patches and known on the host, so that nothing here asks a device how long something
is. Inside an encoder patches lie in any order; what it emits lies frame by frame, row by row.

Shapes: N patches of all items, h width, n heads, d head width, f = d / 4 frequencies of an axis, w stretches of one length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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

__all__ = [
    "FrameLayer",
    "GridAngles",
    "PackedItems",
    "PackedWindows",
    "blocks_to_rows",
    "embed_patches",
    "interpolated_positions",
    "pack",
    "pack_frames",
    "pack_windows",
    "packed_layer_spec",
    "reorder",
    "rows_to_blocks",
    "rows_to_windows",
    "run_layers",
]


# ------------------------------------------------------------------------------------------------------- order of patches


def end_to_end(places: Iterable[Tensor]) -> Tensor:
    """The places in all items, one behind another, of what is so placed in each."""
    first, all_places = 0, []
    for each in places:
        all_places.append(each + first)
        first += len(each)
    return torch.cat(all_places)


def blocks_to_rows(sizes: Iterable[Shape], merge: int) -> Tensor:
    """`[N]`: for each patch, row by row, its place as processors emit them, in blocks of `merge x merge` neighbours."""
    return end_to_end(block_places(size, merge) for size in sizes)


def block_places(size: Shape, merge: int) -> Tensor:
    frames, rows, columns = size
    places = torch.arange(frames * rows * columns)
    return places.view(frames, rows // merge, columns // merge, merge, merge).transpose(2, 3).flatten()


def rows_to_blocks(grids: Iterable[Shape], merge: int) -> Tensor:
    """The other way round: for each patch, block by block, its place row by row. Grids may have any number of sides before the last two."""
    return end_to_end(
        torch.arange(math.prod(grid)).view(-1, grid[-2] // merge, merge, grid[-1] // merge, merge).transpose(2, 3).flatten()
        for grid in grids
    )


def rows_to_windows(sizes: Iterable[Shape], side: int) -> tuple[Tensor, list[int]]:
    """`[N]`: for each patch, window by window, its place row by row; and how many patches there are in each window.

    Windows are `side x side`, from the first row and column on, narrower at the right and lower edge, and each in one frame. Those with
    most patches come first, of whichever item, so that attention takes all of one length at once.
    """
    groups: list[tuple[int, Tensor]] = []
    first = 0
    for size in sizes:
        item = torch.arange(first, first + math.prod(size)).view(size)
        groups += windows_of(item, side)
        first += item.numel()
    groups.sort(key=lambda group: -group[0])
    return torch.cat([places for _, places in groups]), [length for length, places in groups for _ in range(len(places) // length)]


def windows_of(item: Tensor, side: int) -> Iterator[tuple[int, Tensor]]:
    """How long windows of one shape are, and the patches of all of them: whole ones, those at either edge, those in the corner."""
    frames, rows, columns = item.shape
    for band in item.split([rows - rows % side, rows % side], dim=1):  # type: ignore[no-untyped-call]
        for part in band.split([columns - columns % side, columns % side], dim=2):
            if part.numel():
                height, width = min(side, part.shape[1]), min(side, part.shape[2])
                cut = part.reshape(frames, part.shape[1] // height, height, part.shape[2] // width, width)
                yield height * width, cut.transpose(2, 3).flatten()


class Reorder(torch.autograd.Function):
    """Rows in another order, none left out and none twice. So its gradient is moved, where that of an index would be added up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return rows[places]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return torch.empty_like(gradient).index_copy_(0, places, gradient), None


def reorder(rows: Tensor, places: Tensor) -> Tensor:
    """`rows[places]`, for places that name every row once."""
    reordered: Tensor = Reorder.apply(rows, places.to(rows.device, non_blocking=True))  # type: ignore[no-untyped-call]
    return reordered


# -------------------------------------------------------------------------------------------------------------- positions


class GridAngles(nn.Module):
    """Rotary positions in two axes (Su et al. 2021, arXiv:2104.09864): half of a head's pairs turn by the row, half by the column."""

    inverse_frequency: Tensor

    def __init__(self, head_size: int, base: float = 10_000.0) -> None:
        super().__init__()
        # On the CPU whatever the default device: a model built on `meta` has its frequencies at once.
        exponent = torch.arange(0, head_size // 2, 2, dtype=torch.int64, device="cpu").float() / (head_size // 2)
        self.register_buffer("inverse_frequency", 1.0 / base**exponent, persistent=False)

    def forward(self, sizes: Iterable[Shape], device: torch.device) -> Tensor:
        """`[2, N, 1, 1, d / 2]`, row by row: cosines, then sines, as `layers.rotary.rotate` takes them.

        They are float32, and so the turn is, whatever the tower is: that of every reference is too.
        """
        sizes = tuple(sizes)
        places = torch.arange(max(max(size[1:]) for size in sizes), device=device)
        angles_pf = places.unsqueeze(1).float() * self.inverse_frequency.to(device, torch.float32, non_blocking=True)
        table_2pf = torch.stack((angles_pf.cos(), angles_pf.sin()))
        return torch.cat([self.of_item(table_2pf, *size) for size in sizes], dim=1)[:, :, None, None]

    def of_item(self, table_2pf: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        shape = (2, frames, rows, columns, table_2pf.shape[-1])
        by_row, by_column = table_2pf[:, None, :rows, None], table_2pf[:, None, None, :columns]
        return torch.cat((by_row.expand(shape), by_column.expand(shape)), dim=-1).flatten(1, 3)


def interpolated_positions(table_ph: Tensor, sizes: Iterable[Shape]) -> Tensor:
    """A square table of learned positions, drawn over each frame from corner to corner, bilinear: `[N, h]` float32, row by row.

    Each axis is a small matrix. As a product of matrices its gradient needs no scattered addition, so that it is the same every time.
    """
    side = round(table_ph.shape[0] ** 0.5)
    table_pph = table_ph.float().view(side, side, -1)
    drawn: dict[Shape, Tensor] = {}
    for size in sizes:
        if size[1:] not in drawn:
            by_row, by_column = (axis_weights(side, length, table_ph.device) for length in size[1:])
            drawn[size[1:]] = torch.matmul(by_column, torch.tensordot(by_row, table_pph, dims=1)).flatten(0, 1)
    return torch.cat([drawn[size[1:]].repeat(size[0], 1) for size in sizes])


def axis_weights(side: int, length: int, device: torch.device) -> Tensor:
    """`[length, side]`: how much of each entry of the table there is at each of `length` places from its first entry to its last."""
    places = torch.arange(length, device=device, dtype=torch.float32) * (side - 1) / max(length - 1, 1)
    entries = torch.arange(side, device=device, dtype=torch.float32)
    return (1 - (places.unsqueeze(1) - entries).abs()).clamp(min=0)


# -------------------------------------------------------------------------------------------------------------- attention


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


# ----------------------------------------------------------------------------------------------------------------- layers


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
