"""A decoder alone computes the same in every layout: its vocabulary of 101 is padded for two tensor ranks, its sequences are odd."""

from __future__ import annotations

import pytest
from models import batches, language_model

from loongforge_core.testing.layouts import Layout, check_layouts

LAYOUTS = (
    Layout(tensor=2, optimizer="distributed"),
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
