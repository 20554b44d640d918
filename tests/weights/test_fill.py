"""What a rank reads is what it would cut out of the joined tensors, whatever the rule, the slice and the size of a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from loongforge_core.parallel.bookkeeping import Piece
from loongforge_core.weights import tensor_file
from loongforge_core.weights.fill import fill
from loongforge_core.weights.holding import Holding
from loongforge_core.weights.rules import TENSOR, Copy, FusedGateUp, FusedQkv, OneOfStack, Rule
from loongforge_core.weights.table import Entry
from loongforge_core.weights.tensor_file import stored_tensors


@dataclass(frozen=True)
class Transposed(Rule):
    """A plugin's own: it moves no rows, so whole tensors are read."""

    def join(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        return [theirs[0].T]

    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return [ours[0].T]


QKV = FusedQkv(("q", "k", "v"), "qkv", parts=TENSOR, num_heads=4, num_groups=2, head_size=3)
CASES: dict[str, tuple[Rule, list[tuple[int, ...]]]] = {
    "copy": (Copy("a", "b", parts=TENSOR), [(18, 4)]),
    "scalar": (Copy("a", "b", parts=TENSOR), [()]),
    "qkv weight": (QKV, [(12, 4), (6, 4), (6, 4)]),
    "qkv bias": (QKV, [(12,), (6,), (6,)]),
    "gate and up": (FusedGateUp(("gate", "up"), "fc1", parts=TENSOR), [(6, 4), (6, 4)]),
    "stack": (OneOfStack("experts", ("e0", "e1", "e2"), parts=TENSOR), [(3, 6, 4)]),
    "stack of biases": (OneOfStack("experts", ("e0", "e1"), parts=TENSOR), [(2, 6)]),
    "a plugin's": (Transposed("conv", "linear", parts=TENSOR), [(4, 6)]),
}


def entry_of(rule: Rule) -> Entry:
    ((theirs, ours),) = rule.tensors()
    return Entry(rule, theirs, ours)


def cut(name: str, whole: Tensor, places: Sequence[int], axis: int, dtype: torch.dtype) -> list[Piece]:
    """Empty pieces between these places, which need not be equal."""
    pieces = []
    for first, stop in pairwise(places):
        offset, shape = [0] * whole.dim(), list(whole.shape)
        if whole.dim() > axis:
            offset[axis], shape[axis] = first, stop - first
        pieces.append(Piece(name, torch.full(shape, torch.nan, dtype=dtype), tuple(whole.shape), tuple(offset)))
    return pieces


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("block_bytes", [1, 40, tensor_file.BLOCK_BYTES])
@pytest.mark.parametrize("places, axis", [((0, 6), 0), ((0, 1, 6), 0), ((0, 1, 3, 4), 1)], ids=["whole", "rows", "columns"])
@pytest.mark.parametrize("case", CASES)
def test_every_slice(
    case: str, places: Sequence[int], axis: int, block_bytes: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", block_bytes)
    rule, shapes = CASES[case]
    entry = entry_of(rule)
    theirs = {name: torch.randn(shape) for name, shape in zip(entry.theirs, shapes, strict=True)}
    save_file(theirs, tmp_path / "model.safetensors")
    wholes = dict(zip(entry.ours, rule.join(list(theirs.values())), strict=True))
    held = {
        name: Holding(
            name, tuple(whole.shape), cut(name, whole, (*places[:-1], whole.shape[axis] if whole.dim() > axis else 1), axis, dtype)
        )
        for name, whole in wholes.items()
    }
    stored = stored_tensors(tmp_path / "model.safetensors")
    fill(entry, [stored[name] for name in entry.theirs], held)
    for name, holding in held.items():
        for piece in holding.pieces:
            assert torch.equal(piece.tensor, wholes[name][piece.slices].to(dtype)), (name, piece.offset)


def test_padding_that_reaches_over_a_whole_piece_is_zero(tmp_path: Path) -> None:
    """Five rows over three ranks of two, and a fourth that has nothing but padding."""
    save_file({"table": torch.ones(5, 2)}, tmp_path / "model.safetensors")
    pieces = [Piece("embedding", torch.full((2, 2), 7.0), (8, 2), (first, 0)) for first in (0, 2, 4, 6)]
    stored = stored_tensors(tmp_path / "model.safetensors")
    fill(entry_of(Copy("table", "embedding", parts=TENSOR)), [stored["table"]], {"embedding": Holding("embedding", (5, 2), pieces)})
    assert torch.cat([piece.tensor for piece in pieces])[:, 0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_only_the_rows_that_are_needed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the query groups: half of the bytes."""
    theirs = {"q": torch.randn(12, 4), "k": torch.randn(6, 4), "v": torch.randn(6, 4)}
    save_file(theirs, tmp_path / "model.safetensors")
    read: list[int] = []
    original = tensor_file.TensorFile.read_into
    monkeypatch.setattr(
        tensor_file.TensorFile, "read_into", lambda self, tensor, at: (read.append(tensor.nbytes), original(self, tensor, at))
    )
    piece = Piece("qkv", torch.empty(12, 4), (24, 4), (12, 0))
    stored = stored_tensors(tmp_path / "model.safetensors")
    fill(entry_of(QKV), [stored[name] for name in ("q", "k", "v")], {"qkv": Holding("qkv", (24, 4), [piece])})
    assert torch.equal(piece.tensor, QKV.join(list(theirs.values()))[0][12:])
    assert sum(read) == piece.tensor.nbytes
    assert len(read) == 3, "one run each of queries, keys and values"
