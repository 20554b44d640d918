"""Samples become a batch: padded or packed, with each item's tokens in their places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loongforge_core.data.collate import collate, collate_packed
from loongforge_core.data.conversations import Conversation, ItemReference, Message
from loongforge_core.data.sample import Sample, SampleMaker
from loongforge_core.errors import DataError
from loongforge_core.model.batch import PLACEHOLDER_ID

MakeSamples = Callable[..., list[Sample]]

TWO, NONE, MIXED = ("series:2", "series:6"), (), ("other:4", "series:4")
"""Samples by the numbers that their items hold; two numbers are a token."""


@pytest.fixture
def make_samples(make_maker: Callable[..., SampleMaker], tmp_path: Path) -> MakeSamples:
    def make(*samples: Sequence[str], axes: int = 1) -> list[Sample]:
        maker = make_maker(modalities=("series", "other"), axes=axes)
        return [maker.sample(conversation(index, items)) for index, items in enumerate(samples)]

    def conversation(index: int, items: Sequence[str]) -> Conversation:
        references = []
        for place, item in enumerate(items):
            modality, _, count = item.partition(":")
            path = tmp_path / f"{index}_{place}.txt"
            path.write_text(" ".join(str(100 * index + 10 * place + number) for number in range(int(count))))
            references.append(ItemReference(modality, path))
        return Conversation(
            (Message("user", (*references, "?")), Message("assistant", ("x" * (index + 1),))), where=f"data.jsonl:{index + 1}"
        )

    return make


def test_padding_on_the_right(make_samples: MakeSamples) -> None:
    samples = make_samples(TWO, NONE)
    batch = collate(samples)
    short, long = sorted(map(len, samples))
    assert batch.token_ids_bs.shape == batch.labels_bs.shape == batch.loss_mask_bs.shape == batch.position_ids.shape == (2, long)
    assert (batch.token_ids_bs.dtype, batch.labels_bs.dtype, batch.loss_mask_bs.dtype) == (torch.int64, torch.int64, torch.float32)
    for row, sample in enumerate(samples):
        for padded, array in (
            (batch.token_ids_bs, sample.token_ids),
            (batch.labels_bs, sample.labels),
            (batch.loss_mask_bs, sample.loss_mask),
            (batch.position_ids, sample.position_ids),
        ):
            assert padded[row, : len(sample)].tolist() == array.tolist()
            assert not padded[row, len(sample) :].any()
        assert batch.padding_mask_bs is not None and batch.padding_mask_bs[row].tolist() == [place >= len(sample) for place in range(long)]
    assert short < long
    assert collate(samples[:1]).padding_mask_bs is None


def test_items_and_places_in_the_same_order(make_samples: MakeSamples) -> None:
    """The n-th token of a modality's items, sample by sample, goes to the n-th of its placeholders."""
    batch = collate(make_samples(TWO, NONE, MIXED))
    assert batch.items["series"].inputs["values"].ravel().tolist() == [0, 1, 10, 11, 12, 13, 14, 15, 210, 211, 212, 213]
    assert batch.items["series"].sizes == ((2,), (6,), (4,))
    assert batch.items["other"].sizes == ((4,),)
    assert batch.placements["series"].sample_N.tolist() == [0] * 4 + [2] * 2
    marks = torch.zeros_like(batch.token_ids_bs)
    for modality, placement in batch.placements.items():
        assert len(placement.sample_N) == len(placement.position_N) == sum(size[0] // 2 for size in batch.items[modality].sizes)
        marks[placement.sample_N, placement.position_N] += 1
    assert torch.equal(marks == 1, batch.token_ids_bs == PLACEHOLDER_ID)
    other, series = batch.placements["other"].position_N, batch.placements["series"].position_N[4:]
    assert other.max() < series.min()  # the third sample mentions the other one first


def test_no_items_at_all(make_samples: MakeSamples) -> None:
    batch = collate(make_samples(NONE, NONE))
    assert not batch.items
    assert not batch.placements


def test_three_axes_of_positions(make_samples: MakeSamples) -> None:
    samples = make_samples(TWO, NONE, axes=3)
    batch = collate(samples)
    assert batch.position_ids.shape == (3, 2, max(map(len, samples)))
    assert batch.position_ids[:, 1, : len(samples[1])].tolist() == samples[1].position_ids.tolist()


@pytest.mark.parametrize("axes", [1, 3])
def test_packed_into_one_row(make_samples: MakeSamples, axes: int) -> None:
    samples = make_samples(TWO, NONE, MIXED, axes=axes)
    batch = collate_packed(samples)
    assert batch.lengths == tuple(map(len, samples)) and batch.padding_mask_bs is None
    assert (batch.num_samples, batch.num_rows) == (3, 1)
    for given, name in ((batch.token_ids_bs, "token_ids"), (batch.labels_bs, "labels"), (batch.loss_mask_bs, "loss_mask")):
        assert given.tolist() == [[number for sample in samples for number in getattr(sample, name).tolist()]]
    rows = batch.position_ids[0] if axes == 1 else batch.position_ids[:, 0]
    assert rows.tolist() == np.concatenate([sample.position_ids for sample in samples], -1).tolist()
    padded = collate(samples)
    assert batch.placements.keys() == padded.placements.keys() == {"series", "other"}
    for modality, placement in batch.placements.items():
        assert torch.equal(batch.items[modality].inputs["values"], padded.items[modality].inputs["values"])
        starts = torch.tensor(np.cumsum([0, *map(len, samples[:-1])]))
        there = padded.placements[modality]
        assert torch.equal(placement.position_N, starts[there.sample_N] + there.position_N)
        assert not placement.sample_N.any()


def test_counts_that_do_not_match(make_samples: MakeSamples) -> None:
    good, bad = make_samples(NONE, TWO)
    token_ids = bad.token_ids.copy()
    token_ids[bad.spans[0].start] = 0
    with pytest.raises(DataError, match=r"^data.jsonl:2: 3 placeholder tokens, but its items give 4$"):
        collate([good, replace(bad, token_ids=token_ids)])
    with pytest.raises(DataError, match=r"^data.jsonl:2: 3 placeholder"):
        collate_packed([good, replace(bad, token_ids=token_ids)])
    with pytest.raises(DataError, match=r"^data.jsonl:2: 2 places for items of modality 'series', but 1 items$"):
        collate([good, replace(bad, items={"series": bad.items["series"][:1]})])
