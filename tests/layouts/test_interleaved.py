"""What interleaved pipelines will need is there: two virtual stages a rank, built by hand, equal one process, levels included.

No setting asks for them yet. Megatron sends wrong numbers silently where `deallocate_pipeline_outputs` is on (0.16.1: the output is freed
while gloo still sends it) or point-to-point communication is batched (both versions): `facts/megatron.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from megatron.core import parallel_state, tensor_parallel
from models import MODELS, batches, registry

from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import BuildContext
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.testing.layouts import Layout, Measured, compare, measure, measure_steps
from loongforge_core.train.step import build_trainer

STAGES = [["embedding", "decoder"], ["decoder"], ["decoder"], ["decoder", "loss"]]
"""Of the first rank, of the second, and again."""


@dataclass(frozen=True, kw_only=True)
class InterleavedProvider(OmniModelProvider):
    def context(self, *args: Any) -> BuildContext:
        communication = {"overlap_p2p_comm": True, "batch_p2p_comm": False}
        return replace(super().context(*args), layout={"pipeline_model_parallel_layout": STAGES, **communication})


def interleaved(composition: Composition, steps: Any) -> Measured:
    parallel_state.initialize_model_parallel(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    provider = InterleavedProvider(composition=composition, registry=registry)
    rank = parallel_state.get_pipeline_model_parallel_rank()
    models = [provider(number == rank == 0, number == rank == 1, number) for number in range(2)]
    return measure_steps(build_trainer(composition, models), steps)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_virtual_stages_equal_one_process(tied: bool) -> None:
    composition, steps = MODELS["levels"](tied=tied, freeze=False), batches("image")
    (one,) = run_ranks(measure, 1, composition, Layout(), steps)
    compare(one, run_ranks(interleaved, 2, composition, steps), Layout(pipeline=2))
