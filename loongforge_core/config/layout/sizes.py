"""Arithmetic of parallel layouts. What is wrong with one is said by `rules`."""

from __future__ import annotations

import math

from loongforge_core.config.settings import EncoderLayout, ParallelSettings

__all__ = [
    "expert_processes",
    "expert_tensor_size",
    "layers_of_stages",
    "model_processes",
    "processes_needed",
    "replicas",
    "tensor_size",
]


def tensor_size(parallel: ParallelSettings, slot: str) -> int:
    """Tensor-parallel size of an encoder slot, and of its projector."""
    own = parallel.encoders.get(slot, EncoderLayout())
    if own.layout == "replicate":
        return 1
    return own.tensor_model_parallel_size or parallel.tensor_model_parallel_size


def layers_of_stages(parallel: ParallelSettings, num_layers: int) -> tuple[int, ...]:
    """Decoder layers of every pipeline stage, of a layout that `check_layout` found nothing wrong with.

    Where layers do not divide, which only an encoders' stage allows, earlier stages have one more: the last one has the output layer too.
    """
    stages: list[int | None] = [None] * parallel.pipeline_model_parallel_size
    stages[0] = parallel.num_layers_in_first_pipeline_stage
    if parallel.encoder_pipeline_model_parallel_size:
        stages[0] = 0
    if parallel.num_layers_in_last_pipeline_stage is not None:
        stages[-1] = parallel.num_layers_in_last_pipeline_stage
    left, open_stages = num_layers - sum(layers or 0 for layers in stages), stages.count(None)
    shares = iter([left // open_stages + (index < left % open_stages) for index in range(open_stages)])
    return tuple(next(shares) if layers is None else layers for layers in stages)


def expert_tensor_size(parallel: ParallelSettings) -> int:
    return parallel.expert_tensor_parallel_size or parallel.tensor_model_parallel_size


def model_processes(parallel: ParallelSettings) -> int:
    """Processes of one copy of the model, with all experts on every rank of its own."""
    return parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size * parallel.context_parallel_size


def expert_processes(parallel: ParallelSettings) -> int:
    """Processes that hold all experts once."""
    return expert_tensor_size(parallel) * parallel.expert_model_parallel_size * parallel.pipeline_model_parallel_size


def processes_needed(parallel: ParallelSettings) -> int:
    """The number of processes is a multiple of this."""
    return math.lcm(model_processes(parallel), expert_processes(parallel))


def replicas(parallel: ParallelSettings, world_size: int) -> int:
    """Data-parallel size: copies of the model that share the samples of a global batch."""
    return max(1, world_size // model_processes(parallel))
