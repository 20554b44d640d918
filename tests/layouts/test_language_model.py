"""A decoder alone computes the same in every layout: its vocabulary of 101 is padded for two tensor ranks, its sequences are odd."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loongforge_core.config.composition import Composition
from loongforge_core.model.batch import Batch
from loongforge_core.testing.layouts import Layout, check_layouts

LAYOUTS = (
    Layout(data=2),
    Layout(tensor=2),
    Layout(tensor=2, sequence_parallel=True),
    Layout(pipeline=2),
    Layout(data=2, tensor=2),
    Layout(data=2, pipeline=2),
    Layout(tensor=2, pipeline=2, sequence_parallel=True),
)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_layout_equals_one_process(language_model: Callable[..., Composition], text_batches: list[list[Batch]], tied: bool) -> None:
    check_layouts(language_model(tied=tied), LAYOUTS, text_batches)


def test_eight_processes(language_model: Callable[..., Composition], text_batches: list[list[Batch]]) -> None:
    everything = Layout(data=2, tensor=2, pipeline=2, sequence_parallel=True)
    check_layouts(language_model(tied=True, num_layers=4), [everything], text_batches)
