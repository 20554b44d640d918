"""Encoders that every tensor rank of the first stage holds whole (`layout: replicate`) change no number either."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loongforge_core.config.composition import Composition
from loongforge_core.model.batch import Batch
from loongforge_core.testing.layouts import Layout, check_layouts

BOTH = Layout(tensor=2, pipeline=2, sequence_parallel=True)


@pytest.mark.parametrize(
    ("freeze", "layouts"),
    [
        (False, [Layout(data=2), Layout(tensor=2), Layout(pipeline=2), Layout(data=2, tensor=2), BOTH]),
        (["transformer.layers.0.*"], [Layout(tensor=2)]),
        (True, [BOTH]),
    ],
    ids=["trained", "partly frozen", "frozen"],
)
def test_every_layout_equals_one_process(
    llava: Callable[..., Composition], image_batches: list[list[Batch]], freeze: bool | list[str], layouts: list[Layout]
) -> None:
    check_layouts(llava(freeze=freeze), layouts, image_batches)
