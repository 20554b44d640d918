"""What vision encoders share: orders of patches, positions, and what layers are told of them."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from loongforge_core.layers.rotary import rotate
from loongforge_core.layers.vision.order import blocks_to_rows, reorder, rows_to_blocks, rows_to_windows
from loongforge_core.layers.vision.packed import pack_frames, pack_windows
from loongforge_core.layers.vision.positions import GridAngles, interpolated_positions

SIZES = ((1, 4, 6), (2, 2, 10), (1, 8, 2))


def test_blocks_are_two_neighbours_each_way() -> None:
    assert rows_to_blocks([(4, 4)], 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert rows_to_blocks([(2, 2, 2), (2, 4)], 2).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_to_blocks_and_back() -> None:
    rows = torch.arange(sum(frames * height * width for frames, height, width in SIZES))
    assert torch.equal(rows[rows_to_blocks(SIZES, 2)][blocks_to_rows(SIZES, 2)], rows)


def test_windows_of_one_length_lie_together() -> None:
    """A frame of 3 x 5 in windows of 2 x 2: two whole ones, one column of two, two rows of two, one corner."""
    places, lengths = rows_to_windows([(1, 3, 5)], 2)
    assert places.tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    assert lengths == [4, 4, 2, 2, 2, 1]


def test_windows_stay_in_their_frame_and_item() -> None:
    """The second frame begins at 15, the second item at 30."""
    places, lengths = rows_to_windows([(2, 3, 5), (1, 2, 2)], 2)
    assert lengths == [4] * 5 + [2] * 6 + [1] * 2
    assert places.split(lengths)[4].tolist() == [30, 31, 32, 33]
    assert all({int(place >= 15) + int(place >= 30) for place in window} in ({0}, {1}, {2}) for window in places.split(lengths))
    assert sorted(places.tolist()) == list(range(34))


def test_by_window_and_by_frame_are_inverse() -> None:
    packed = pack_windows([(2, 3, 5), (1, 4, 2)], 2, torch.device("cpu"))
    assert packed.by_window[packed.by_frame].tolist() == list(range(38))
    assert packed.runs == ((6, 4), (6, 2), (2, 1))
    assert packed.frames.runs == ((2, 15), (1, 8))


def test_reordered_rows_take_their_gradients_back() -> None:
    rows = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([3, 0, 5, 1, 2, 4])
    assert torch.equal(reorder(rows, places), rows[places])
    assert torch.autograd.gradcheck(lambda rows: reorder(rows, places), (rows,))


def test_positions_are_interpolated_from_corner_to_corner() -> None:
    """As torch does it, with corners aligned."""
    table = torch.randn(25, 6, generator=torch.Generator().manual_seed(0))
    drawn = interpolated_positions(table, SIZES)
    squares = table.view(1, 5, 5, 6).permute(0, 3, 1, 2)
    expected = [
        F.interpolate(squares, size=(height, width), mode="bilinear", align_corners=True)[0]
        .permute(1, 2, 0)
        .flatten(0, 1)
        .repeat(frames, 1)
        for frames, height, width in SIZES
    ]
    torch.testing.assert_close(drawn, torch.cat(expected))
    assert torch.equal(interpolated_positions(table, [(1, 5, 5)]), table)
    assert torch.equal(interpolated_positions(table, [(1, 1, 1)]), table[:1])


def test_attention_sees_how_far_apart_patches_are_in_each_axis() -> None:
    """Rotated queries and keys: their product depends on differences of rows and columns, not on where the two are."""
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(1, 1, 1, 16, generator=generator).expand(24, 1, 1, 16) for _ in range(2))
    rotation = GridAngles(16)([(1, 4, 6)], query.device)
    products = torch.einsum("sbnd,tbnd->st", rotate(query, rotation), rotate(key, rotation)).view(4, 6, 4, 6)
    torch.testing.assert_close(products[0, 0, 2, 3], products[1, 2, 3, 5])
    assert (products[0, 0, 2, 3] - products[0, 0, 3, 2]).abs() > 1e-3
    assert (products[0, 0, 2, 3] - products[0, 0, 2, 2]).abs() > 1e-3


def test_frames_of_one_size_are_one_run() -> None:
    packed = pack_frames([(3, 2, 4), (1, 4, 2), (2, 2, 2)], torch.device("cpu"))
    assert packed.runs == ((4, 8), (2, 4))
    assert packed.cu_seqlens_q.tolist() == [0, 8, 16, 24, 32, 36, 40]
    assert packed.max_seqlen_q == 8
