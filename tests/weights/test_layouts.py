"""Every rank of a layout reads its own slices, and together they are what one process reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loongforge_llm.qwen2.config import Qwen2Config
from torch import Tensor

from loongforge_core.layers.interfaces import BuildContext, PipelineStage
from loongforge_core.model.auto import AutoModel, spec_of
from loongforge_core.parallel.groups import component_groups
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import Ours
from loongforge_core.weights.formats import slot_table
from loongforge_core.weights.holding import holdings
from loongforge_core.weights.import_hf import import_hf

Held = list[tuple[str, tuple[slice, ...], Tensor]]


def read_here(folder: Path, sizes: dict[str, int], layout: dict[str, int]) -> Held:
    """What this rank holds after reading: names, places in the whole, values."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(**layout)
    config, registry, groups = Qwen2Config(**sizes), Registry.discover(), component_groups()
    stage = PipelineStage(pre_process=groups.pp.rank() == 0, post_process=groups.pp.rank() == groups.pp.size() - 1)
    context = BuildContext(groups=groups, stage=stage, padded_vocab_size=104)
    component = AutoModel.from_config(config, context, registry)
    import_hf(folder, component, slot_table(spec_of(config, registry), component, registry), config)
    return [(piece.name, piece.slices, piece.tensor) for holding in holdings({"": component}).values() for piece in holding.pieces]


@pytest.mark.parametrize(
    "layout",
    [
        {"tensor_model_parallel_size": 2},
        {"pipeline_model_parallel_size": 2},
        {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2},
    ],
    ids=str,
)
def test_ranks_together_read_what_one_process_reads(layout: dict[str, int], folder: Any, qwen2: Ours) -> None:
    import_hf(folder.path, qwen2.target, qwen2.table, qwen2.config)
    whole = {}
    for name, holding in holdings({"": qwen2.model}).items():
        whole[name] = torch.full(holding.pieces[0].shape, torch.nan)
        for piece in holding.pieces:
            whole[name][piece.slices] = piece.tensor
    world_size = layout.get("tensor_model_parallel_size", 1) * layout.get("pipeline_model_parallel_size", 1)
    sizes = {key: value for key, value in qwen2.config.model_dump(exclude_unset=True).items()}
    seen = {name: torch.zeros_like(tensor, dtype=torch.bool) for name, tensor in whole.items()}
    for held in run_ranks(read_here, world_size, folder.path, sizes, layout):
        for name, slices, tensor in held:
            assert torch.equal(tensor, whole[name][slices]), name
            seen[name][slices] = True
    assert all(mask.all() for mask in seen.values())
