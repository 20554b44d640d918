"""Arithmetic of parallel layouts and batches, without torch."""

from __future__ import annotations

from collections.abc import Mapping

from loongforge_core.config.composition import FOUNDATION, Slot
from loongforge_core.config.sentences import Findings
from loongforge_core.config.settings import ParallelSettings, RunSettings

__all__ = ["check_layout", "layers_of_stages", "tensor_size"]


def tensor_size(parallel: ParallelSettings, slot: str) -> int:
    """Tensor-parallel size of an encoder slot, and of its projector."""
    own = parallel.encoders[slot]
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


def check_layout(run: RunSettings, slots: Mapping[str, Slot], world_size: int | None, findings: Findings) -> None:
    """Notes what does not divide. `world_size` None: how many processes there will be is not known."""
    _check_division(run.parallel, slots, findings)
    if run.parallel.sequence_parallel and run.parallel.tensor_model_parallel_size == 1:
        findings.add(
            "parallel.sequence_parallel",
            "true splits sequences over the tensor ranks, and tensor_model_parallel_size is 1; expected false, or 2 ranks or more",
        )
    replicas = 1
    if world_size is not None:
        replicas = _check_world(run.parallel, world_size, findings)
    _check_batch(run, replicas, findings)


def _check_division(parallel: ParallelSettings, slots: Mapping[str, Slot], findings: Findings) -> None:
    """The language model's heads over tensor ranks and its layers over pipeline stages, where its config calls them as Megatron does."""
    if FOUNDATION not in slots:
        return
    config = slots[FOUNDATION].config
    for size, what in (("tensor_model_parallel_size", "num_attention_heads"), ("pipeline_model_parallel_size", "num_layers")):
        ways, whole = getattr(parallel, size), getattr(config, what, None)
        if isinstance(whole, int) and whole % ways:
            valid = [divisor for divisor in range(1, whole + 1) if whole % divisor == 0]
            findings.add(
                f"parallel.{size}",
                f"{what} {whole} of the {FOUNDATION} does not divide by {ways}: {whole} = {whole // ways} x {ways} + {whole % ways}; "
                f"nearest valid: {_nearest(ways, valid)}",
            )


def _check_world(parallel: ParallelSettings, world_size: int, findings: Findings) -> int:
    """Notes a layout that does not fit into `world_size` processes; the number of data-parallel replicas."""
    sizes = {
        "tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "pipeline_model_parallel_size": parallel.pipeline_model_parallel_size,
        "context_parallel_size": parallel.context_parallel_size,
    }
    needed = _check_product(sizes, world_size, findings)
    experts = {
        "tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "pipeline_model_parallel_size": parallel.pipeline_model_parallel_size,
        "expert_model_parallel_size": parallel.expert_model_parallel_size,
    }
    if parallel.expert_model_parallel_size > 1 and world_size % needed == 0:
        _check_product(experts, world_size, findings)
    return max(1, world_size // needed)


def _check_product(sizes: Mapping[str, int], world_size: int, findings: Findings) -> int:
    needed = 1
    for size in sizes.values():
        needed *= size
    if world_size % needed:
        largest = max(sizes, key=lambda name: sizes[name])
        others = needed // sizes[largest]
        valid = [size for size in range(1, world_size + 1) if world_size % (others * size) == 0]
        named = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
        nearest = f"; nearest valid {largest}: {_nearest(sizes[largest], valid)}" if valid else ""
        findings.add(
            f"parallel.{largest}",
            f"{named} = {needed} processes, and the world size {world_size} is no multiple of {needed}{nearest}",
        )
    return needed


def _check_batch(run: RunSettings, replicas: int, findings: Findings) -> None:
    train = run.train
    step = train.micro_batch_size * replicas
    if train.global_batch_size % step:
        below = train.global_batch_size // step * step
        valid = [size for size in (below, below + step) if size]
        ranks = f" x {replicas} data-parallel replicas" if replicas > 1 else ""
        findings.add(
            "train.global_batch_size",
            f"{train.global_batch_size} is no multiple of micro_batch_size {train.micro_batch_size}{ranks} = {step}; "
            f"nearest valid: {_nearest(train.global_batch_size, valid)}",
        )


def _nearest(given: int, valid: list[int]) -> int:
    return min(valid, key=lambda size: (abs(size - given), size))
