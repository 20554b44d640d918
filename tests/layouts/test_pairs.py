"""Every two settings of a layout that can meet do meet, in some layout that equals one process, for three kinds of models.

On the older Megatron-Core a seeded sample of these layouts. `make test-layouts` tries their whole product, on both.
"""

from __future__ import annotations

import functools
import random
from typing import Any

import megatron.core
import pytest
from models import MODELS, batches

from loongforge_core.parallel.launch import run_ranks
from loongforge_core.testing.layouts import Layout, Measured, compare, measure
from loongforge_core.testing.pairs import Row, all_pairs, all_rows

SAMPLE = 2
"""Layouts of each model that are tried on the older Megatron-Core."""

DIMENSIONS: dict[str, tuple[Any, ...]] = {
    "data": (1, 2),
    "tensor": (1, 2, 4),
    "pipeline": (1, 2, 3, 4),
    "sequence_parallel": (False, True),
    "stages": ("even", "uneven", "encoders"),
    "optimizer": ("whole", "whole, overlapped", "distributed", "overlapped"),
    "recompute": ("none", "selective", "full"),
    "tied": (False, True),
    "freeze": ("nothing", "partly", "whole"),
}
ENCODERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "digits": {"image_encoder": ("replicate", 2, 4)},
    "two encoders": {"image_encoder": ("replicate", 2, 4), "video_encoder": ("replicate", 2, 4)},
    "levels": {},  # its encoder cannot be split
}
FREEZE = {"nothing": False, "partly": ["*_embedding.*", "transformer.layers.0.*"], "whole": True}


def is_valid(row: Row) -> bool:
    """Of four decoder layers, two or three stages can have unequal parts, three cannot have equal ones."""
    if row["data"] * row["tensor"] * row["pipeline"] > 8 or (row["sequence_parallel"] and row["tensor"] == 1):
        return False
    stages = {"even": (1, 2, 4), "uneven": (2, 3), "encoders": (2, 3, 4)}
    own = [row[name] for name in ("image_encoder", "video_encoder") if row.get(name, "replicate") != "replicate"]
    return row["pipeline"] in stages[row["stages"]] and all(row["tensor"] % size == 0 for size in own)


def layout_of(row: Row) -> Layout:
    uneven = row["stages"] == "uneven"
    return Layout(
        data=row["data"],
        tensor=row["tensor"],
        pipeline=row["pipeline"],
        sequence_parallel=row["sequence_parallel"],
        first_stage=1 if uneven else None,
        last_stage=2 if uneven and row["pipeline"] == 3 else None,
        encoder_stage=row["stages"] == "encoders",
        encoders={name: row[name] for name in ("image_encoder", "video_encoder") if row.get(name, "replicate") != "replicate"},
        optimizer=row["optimizer"].removesuffix(", overlapped"),
        overlap_grad_reduce=row["optimizer"].endswith(", overlapped"),
        recompute=row["recompute"],
    )


def processes(row: Row) -> float:
    return 8.0 + layout_of(row).world_size


def chosen(model: str, config: pytest.Config) -> list[Row]:
    rows = all_rows({**DIMENSIONS, **ENCODERS[model]}, is_valid)
    if shard := config.getoption("--all-layouts"):
        number, of = map(int, shard.split("/"))
        return rows[number - 1 :: of]
    pairs = all_pairs(rows, processes)
    older = megatron.core.__version__.startswith("0.16")
    return random.Random(7).sample(pairs, SAMPLE) if older else pairs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = [(model, row) for model in MODELS for row in chosen(model, metafunc.config)]
    names = [f"{model}, {'tied' if row['tied'] else 'untied'}, frozen: {row['freeze']}, {layout_of(row)}" for model, row in cases]
    metafunc.parametrize(("model", "row"), cases, ids=names)


def micro_batches(layout: Layout) -> int:
    """Of a global batch: three a data-parallel rank, and more where they fill more than two stages."""
    return 3 if layout.data == 1 and layout.pipeline <= 2 else 6


def data(model: str, number: int) -> Any:
    return batches(*(("image", "video") if model == "two encoders" else ("image",)), number=number)


@functools.cache
def one_process(model: str, tied: bool, freeze: str, number: int) -> Measured:
    (measured,) = run_ranks(measure, 1, MODELS[model](tied=tied, freeze=FREEZE[freeze]), Layout(), data(model, number))
    return measured


def test_a_layout_equals_one_process(model: str, row: Row) -> None:
    layout, composition = layout_of(row), MODELS[model](tied=row["tied"], freeze=FREEZE[row["freeze"]])
    number = micro_batches(layout)
    compare(
        one_process(model, row["tied"], row["freeze"], number),
        run_ranks(measure, layout.world_size, composition, layout, data(model, number)),
        layout,
    )
