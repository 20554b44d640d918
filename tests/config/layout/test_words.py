"""A layout that can be run, said in words."""

from __future__ import annotations

from typing import Any

import pytest
from trees import LARGE, changed_at

from loongforge_core.config.check import composition_from
from loongforge_core.config.layout.words import describe_layout
from loongforge_core.registry.registry import Registry


@pytest.mark.parametrize(
    ("world_size", "changes", "lines"),
    [
        (None, {}, ["layout: any number of processes", "step: 24 samples in micro-batches of 1, on at most 24 copies of the model"]),
        (1, {"train.micro_batch_size": 24}, ["layout: 1 process", "step: 24 samples = 1 micro-batch x 24 samples"]),
        (
            3,
            {},
            ["layout: 3 processes = 3 copies of the model", "step: 24 samples = 3 copies of the model x 8 micro-batches x 1 sample"],
        ),
        (
            None,
            {
                "parallel.tensor_model_parallel_size": 4,
                "parallel.pipeline_model_parallel_size": 6,
                "parallel.encoder_pipeline_model_parallel_size": 1,
                "parallel.audio_encoder": {"layout": "tensor", "tensor_model_parallel_size": 2},
            },
            [
                "layout: any multiple of 24 processes: tensor 4 x pipeline 6",
                "  decoder layers of the pipeline stages: 0 (encoders), 3, 3, 2, 2, 2",
                "  audio_encoder: split over 2 tensor ranks, 2 times (layout: tensor)",
                "  image_encoder: whole on each tensor rank (layout: replicate)",
                "step: 24 samples in micro-batches of 1, on at most 24 copies of the model",
            ],
        ),
        (
            4,
            {
                "parallel.tensor_model_parallel_size": 2,
                "train.micro_batch_size": 6,
                "parallel.audio_encoder": {"layout": "tensor"},
                "model.image_encoder": None,
                "parallel.sequence_parallel": True,
                "parallel.use_distributed_optimizer": True,
                "parallel.overlap_grad_reduce": True,
            },
            [
                "layout: 4 processes = 2 copies of the model x tensor 2, with sequence parallelism, a distributed optimizer, overlap",
                "  audio_encoder: split over 2 tensor ranks (layout: tensor)",
                "step: 24 samples = 2 copies of the model x 2 micro-batches x 6 samples",
            ],
        ),
    ],
    ids=["unknown", "one", "data", "encoders", "options"],
)
def test_a_layout_in_words(registry: Registry, world_size: int | None, changes: dict[str, Any], lines: list[str]) -> None:
    composition = composition_from(changed_at(LARGE, changes), registry, world_size=world_size)
    assert list(describe_layout(composition, world_size)) == lines
