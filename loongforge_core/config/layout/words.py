"""A layout, and what a step is made of in it, in a few readable lines."""

from __future__ import annotations

from collections.abc import Iterator

from loongforge_core.config.composition import Composition
from loongforge_core.config.layout.sizes import expert_tensor_size, layers_of_stages, processes_needed, replicas, tensor_size
from loongforge_core.config.settings import ParallelSettings, RunSettings

__all__ = ["describe_layout"]


def describe_layout(composition: Composition, world_size: int | None) -> Iterator[str]:
    """A right layout in a few readable lines. `world_size` None: how many processes there will be is not known."""
    parallel = composition.run.parallel
    yield f"layout: {processes_in_words(parallel, world_size)}{with_in_words(parallel)}"
    if composition.foundation is not None and parallel.pipeline_model_parallel_size > 1:
        first, *others = layers_of_stages(parallel, composition.foundation.num_layers)
        stages = [str(first) if first else "0 (encoders)", *map(str, others)]
        yield f"  decoder layers of the pipeline stages: {', '.join(stages)}"
    if parallel.expert_model_parallel_size > 1:
        size = expert_tensor_size(parallel)
        yield f"  experts: shared by {parallel.expert_model_parallel_size} ranks{f', each split over {size} tensor ranks' * (size > 1)}"
    for slot, own in parallel.encoders.items() if parallel.tensor_model_parallel_size > 1 else ():
        size = tensor_size(parallel, slot)
        times = parallel.tensor_model_parallel_size // size
        held = "whole on each tensor rank" if size == 1 else f"split over {size} tensor ranks{f', {times} times' * (times > 1)}"
        yield f"  {slot}: {held} (layout: {own.layout})"
    yield f"step: {batch_in_words(composition.run, world_size)}"


def processes_in_words(parallel: ParallelSettings, world_size: int | None) -> str:
    sizes = {"tensor": parallel.tensor_model_parallel_size, "pipeline": parallel.pipeline_model_parallel_size}
    each = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
    if world_size is None:
        return f"any multiple of {processes_needed(parallel)} processes: {each}" if each else "any number of processes"
    product = " x ".join(filter(None, (copies_in_words(parallel, world_size), each)))
    return f"{world_size} processes = {product}" if world_size > 1 else "1 process"


def copies_in_words(parallel: ParallelSettings, world_size: int) -> str:
    """Empty where there is only one."""
    copies = replicas(parallel, world_size)
    return f"{copies} copies of the model" if copies > 1 else ""


def with_in_words(parallel: ParallelSettings) -> str:
    overlapped = parallel.overlap_grad_reduce or parallel.overlap_param_gather
    extras = {
        "sequence parallelism": parallel.sequence_parallel,
        "a distributed optimizer": parallel.use_distributed_optimizer,
        "overlap": overlapped,
    }
    named = ", ".join(name for name, is_on in extras.items() if is_on)
    return f", with {named}" if named else ""


def batch_in_words(run: RunSettings, world_size: int | None) -> str:
    samples, micro = run.train.global_batch_size, run.train.micro_batch_size
    if world_size is None:
        most = samples // micro
        return f"{samples} samples in micro-batches of {micro}, on at most {most} cop{'ies' if most > 1 else 'y'} of the model"
    number = samples // (replicas(run.parallel, world_size) * micro)
    factors = (
        copies_in_words(run.parallel, world_size),
        f"{number} micro-batch{'es' * (number > 1)}",
        f"{micro} sample{'s' * (micro > 1)}",
    )
    return f"{samples} samples = {' x '.join(filter(None, factors))}"
