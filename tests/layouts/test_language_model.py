"""A decoder alone computes the same in every layout: its vocabulary of 101 is padded for two tensor ranks, its sequences are odd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import batches, language_model

from loongforge_core.model.batch import Batch
from loongforge_core.testing.layouts import Layout, check_layouts

LAYOUTS = (
    Layout(data=2, optimizer="distributed", overlap_grad_reduce=True),
    Layout(data=2, tensor=2, pipeline=2, sequence_parallel=True, optimizer="overlapped"),
    Layout(pipeline=3, first_stage=1, last_stage=1, recompute="full"),
)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_layout_equals_one_process(tied: bool) -> None:
    check_layouts(language_model(tied=tied), LAYOUTS, batches())


def test_tensor_ranks_share_key_and_value_heads_where_these_are_fewer() -> None:
    check_layouts(
        language_model(tied=False, num_query_groups=2), [Layout(tensor=4, sequence_parallel=True, recompute="selective")], batches()
    )


def test_many_ranks_of_one_kind() -> None:
    check_layouts(language_model(tied=True), [Layout(data=8, optimizer="distributed")], batches(number=8))
    check_layouts(language_model(tied=True), [Layout(tensor=8, sequence_parallel=True)], batches(number=3))


def test_packed_rows() -> None:
    """Two samples in a row of an odd length, which sequence parallelism pads."""
    steps = [[packed(batch) for batch in step] for step in batches()]
    check_layouts(language_model(tied=False), [Layout(tensor=2, sequence_parallel=True), Layout(pipeline=2)], steps)


def packed(batch: Batch) -> Batch:
    """The batch's samples one after another in one row."""
    number, length = batch.token_ids_bs.shape
    return Batch(
        token_ids_bs=batch.token_ids_bs.reshape(1, -1),
        labels_bs=batch.labels_bs.reshape(1, -1),
        loss_mask_bs=batch.loss_mask_bs.reshape(1, -1),
        position_ids=batch.position_ids.reshape(1, -1),
        lengths=(length,) * number,
    )


def test_a_step_without_targets_changes_nothing() -> None:
    first, *rest = batches()
    untargeted = [replace(batch, loss_mask_bs=torch.zeros_like(batch.loss_mask_bs)) for batch in first]
    check_layouts(language_model(tied=True), [Layout(data=2, pipeline=2, optimizer="overlapped")], [*rest, untargeted])
