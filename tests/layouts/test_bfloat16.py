"""bfloat16 rounds: its layouts agree as far as its eight bits do, which is enough to notice a gradient that is lost or doubled."""

from __future__ import annotations

from dataclasses import replace

import pytest
from models import MLP, SIGLIP, batches, composition

from loongforge_core.parallel.launch import run_ranks
from loongforge_core.testing.layouts import Layout, measure

LAYOUTS = [
    Layout(data=2, tensor=2, pipeline=2, sequence_parallel=True, optimizer="overlapped", encoders={"image_encoder": 2}),
    Layout(tensor=2, pipeline=2, encoder_stage=True, recompute="full"),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_losses_and_gradient_norms(layout: Layout) -> None:
    model = composition({"image_encoder": SIGLIP, "image_projector": MLP}, tied=True, model_type="llava")
    model = replace(model, run=model.run.model_copy(update={"train": model.run.train.model_copy(update={"precision": "bf16"})}))
    (one,) = run_ranks(measure, 1, model, Layout(), batches("image"))
    for rank in run_ranks(measure, layout.world_size, model, layout, batches("image")):
        assert rank.losses == pytest.approx(one.losses, rel=2e-3)
        assert rank.grad_norms == pytest.approx(one.grad_norms, rel=2e-2)
