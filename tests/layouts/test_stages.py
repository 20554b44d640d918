"""What every pipeline stage holds, and what it sends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from models import MODELS, batches
from torch import Tensor

from loongforge_core.parallel.launch import run_ranks
from loongforge_core.testing.layouts import Layout, trainer_in


@dataclass(frozen=True)
class Stage:
    layers: tuple[int, ...]
    """Numbers of its decoder layers in the whole model, from 0."""
    slots: tuple[str, ...]
    has_table: bool
    has_output_layer: bool
    rows: tuple[int, ...]
    """Length of what it sends on, in sequences, micro-batch by micro-batch: the hidden states are one."""


def stage_here(layout: Layout) -> Stage:
    trainer = trainer_in(MODELS["levels"](tied=False, freeze=False), layout)
    (model,) = trainer.models
    rows: list[int] = []

    def note(_: Any, inputs: tuple[Any], output: Tensor) -> None:
        rows.append(output.shape[0] // inputs[0].token_ids_bs.shape[1])

    if not model.post_process:
        model.register_forward_hook(note)
    trainer.forward_backward(batches("image")[0])
    return Stage(
        tuple(layer.layer_number - 1 for layer in model.foundation.decoder.layers),
        tuple(model.components()),
        hasattr(model.foundation, "embedding"),
        hasattr(model.foundation, "output_layer"),
        tuple(rows),
    )


# Of the six micro-batches, the second and the third have images, and so levels.
@pytest.mark.parametrize(
    ("layout", "layers", "rows"),
    [
        (Layout(pipeline=2), [(0, 1), (2, 3)], [(1,) * 6]),
        (Layout(pipeline=4), [(0,), (1,), (2,), (3,)], [(1, 2, 2, 1, 1, 1), (1,) * 6, (1,) * 6]),
        (Layout(pipeline=2, first_stage=1), [(0,), (1, 2, 3)], [(1, 2, 2, 1, 1, 1)]),
        (Layout(pipeline=3, last_stage=2, first_stage=1), [(0,), (1,), (2, 3)], [(1, 2, 2, 1, 1, 1), (1,) * 6]),
        (Layout(pipeline=2, encoder_stage=True), [(), (0, 1, 2, 3)], [(1, 3, 3, 1, 1, 1)]),
        (Layout(pipeline=4, encoder_stage=True), [(), (0, 1), (2,), (3,)], [(1, 3, 3, 1, 1, 1), (1,) * 6, (1,) * 6]),
    ],
    ids=str,
)
def test_stages(layout: Layout, layers: list[tuple[int, ...]], rows: list[tuple[int, ...]]) -> None:
    """Levels go no further than the stage that adds the last of them."""
    stages = run_ranks(stage_here, layout.world_size, layout)
    assert [stage.layers for stage in stages] == layers
    assert [stage.rows for stage in stages] == [*rows, ()]
    assert [stage.slots for stage in stages] == [("image_encoder", "foundation"), *[("foundation",)] * (layout.pipeline - 1)]
    assert [stage.has_table for stage in stages] == [True] + [False] * (layout.pipeline - 1)
    assert [stage.has_output_layer for stage in stages] == [False] * (layout.pipeline - 1) + [True]
