"""What a parallel layout and a batch must fulfil: everything that Megatron-Core, or a component, would refuse in the run, said before.

Each rule says what is wrong, with its arithmetic, and in which values a way out may lie; `check` finds the nearest by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from loongforge_core.config.layout.job import PROCESSES, Job, Problem, around, division, divisors_around
from loongforge_core.config.layout.sizes import expert_processes, expert_tensor_size, model_processes, replicas, tensor_size
from loongforge_core.config.layout.stages import layers_over_stages, stage_of_the_encoders
from loongforge_core.config.settings import ParallelSettings
from loongforge_core.config.slot_names import FOUNDATION, projector_slot, slot_modality

__all__ = ["RULES", "batch", "processes"]

TENSOR = "parallel.tensor_model_parallel_size"
EXPERT, EXPERT_TENSOR = "parallel.expert_model_parallel_size", "parallel.expert_tensor_parallel_size"
GLOBAL_BATCH, MICRO_BATCH = "train.global_batch_size", "train.micro_batch_size"


def not_there_yet(job: Job) -> Iterator[Problem]:
    size = job.run.parallel.context_parallel_size
    if size > 1:
        key = "parallel.context_parallel_size"
        yield Problem(key, f"got {size}, but attention over several ranks is not there yet", {key: (1,)})


def language_model_over_tensor_ranks(job: Job) -> Iterator[Problem]:
    conflicts = conflicts_of(job, FOUNDATION, size := job.run.parallel.tensor_model_parallel_size)
    if conflicts:
        fitting = (other for other in around(size, 1, 2 * size) if not conflicts_of(job, FOUNDATION, other))
        yield Problem(TENSOR, conflicts, {TENSOR: fitting})


def conflicts_of(job: Job, name: str, size: int) -> str:
    """Why a slot's component cannot be split over so many tensor ranks; empty where it can, and where the slot is not right itself."""
    slot = job.slots.get(name)
    reasons = "; ".join(slot.config.tensor_parallel_conflicts(size)) if slot else ""
    return f"{name} ({slot.spec.name}): {reasons}" if slot and reasons else ""


def vocabulary_over_tensor_ranks(job: Job) -> Iterator[Problem]:
    """The vocabulary is padded until it divides, which may leave the last ranks with nothing but padding."""
    if job.foundation is None:
        return
    rows, ranks = job.foundation.vocab_size, job.run.parallel.tensor_model_parallel_size
    each = -(-rows // ranks)
    if (ranks - 1) * each >= rows:
        idle = ranks - -(-rows // each)
        yield Problem(
            TENSOR,
            f"vocab_size {rows} of the {FOUNDATION}, cut into {each} row{'s' * (each > 1)} each, leaves none for {idle} of {ranks} ranks: "
            f"{ranks - idle} x {each} >= {rows}",
            {TENSOR: around(ranks, 1, rows)},
        )


def sequences_over_tensor_ranks(job: Job) -> Iterator[Problem]:
    parallel, key = job.run.parallel, "parallel.sequence_parallel"
    if parallel.sequence_parallel and parallel.tensor_model_parallel_size == 1:
        yield Problem(
            key, "true splits sequences over the tensor ranks, and tensor_model_parallel_size is 1; expected false, or 2 ranks or more"
        )
    needed = job.foundation is not None and job.foundation.needs_sequence_parallel
    if needed and not parallel.sequence_parallel and parallel.tensor_model_parallel_size > 1:
        yield Problem(
            key, f"false, but the {FOUNDATION} has experts, which on tensor ranks take sequences that are split over these; expected true"
        )


def experts_over_ranks(job: Job) -> Iterator[Problem]:
    """Experts are shared by ranks, and each is split over tensor ranks; the two together decide how many copies of an expert there are."""
    parallel = job.run.parallel
    size, tensor_size = parallel.expert_model_parallel_size, expert_tensor_size(parallel)
    if parallel.expert_tensor_parallel_size is not None and size == 1 and tensor_size != parallel.tensor_model_parallel_size:
        yield Problem(
            EXPERT_TENSOR,
            f"got {tensor_size}, but experts that no ranks share are split as everything else, over {parallel.tensor_model_parallel_size}",
            {EXPERT_TENSOR: (parallel.tensor_model_parallel_size,)},
        )
    foundation = job.slots.get(FOUNDATION)
    if foundation is None or job.foundation is None:
        return

    def conflicts(size: int, tensor_size: int) -> str:
        assert job.foundation is not None
        return "; ".join(job.foundation.expert_parallel_conflicts(size, tensor_size))

    if wrong := conflicts(size, 1):
        fitting = (other for other in around(size, 1, 2 * size) if not conflicts(other, 1))
        yield Problem(EXPERT, f"{FOUNDATION} ({foundation.spec.name}): {wrong}", {EXPERT: fitting})
    elif wrong := conflicts(size, tensor_size):
        fitting = (other for other in around(tensor_size, 1, 2 * tensor_size) if not conflicts(size, other))
        yield Problem(EXPERT_TENSOR, f"{FOUNDATION} ({foundation.spec.name}): {wrong}", {EXPERT_TENSOR: fitting})


def encoders_over_tensor_ranks(job: Job) -> Iterator[Problem]:
    parallel = job.run.parallel
    for name, own in parallel.encoders.items():
        key, written = f"parallel.{name}.tensor_model_parallel_size", own.tensor_model_parallel_size
        if own.layout == "replicate" and written not in (None, 1):
            yield Problem(key, f"got {written}, but layout `replicate` has tensor size 1; expected `layout: tensor` beside it", {key: (1,)})
        elif own.layout == "tensor" and (reasons := "; ".join(why_not_split(job, name))):
            yield Problem(key, reasons, {key: divisors_around(tensor_size(parallel, name), parallel.tensor_model_parallel_size)})


def why_not_split(job: Job, encoder: str) -> Iterator[str]:
    """Of an encoder and its projector, on tensor ranks of their own; what follows from a wrong size of the language model's is not said."""
    parallel = job.run.parallel
    size, whole = tensor_size(parallel, encoder), parallel.tensor_model_parallel_size
    is_sound = not conflicts_of(job, FOUNDATION, whole)
    if whole % size and is_sound:
        yield f"{size} is no divisor of the language model's tensor_model_parallel_size {whole}: {division(whole, size)}"
    if is_sound or parallel.encoders[encoder].tensor_model_parallel_size is not None:
        for name in (encoder, projector_slot(slot_modality(encoder))):
            if conflicts := conflicts_of(job, name, size):
                yield conflicts


def overlaps(job: Job) -> Iterator[Problem]:
    parallel = job.run.parallel
    needed = {"use_distributed_optimizer": parallel.use_distributed_optimizer, "overlap_grad_reduce": parallel.overlap_grad_reduce}
    missing = " and ".join(f"{name}: true" for name, is_on in needed.items() if not is_on)
    if parallel.overlap_param_gather and missing:
        yield Problem("parallel.overlap_param_gather", f"true needs {missing} beside it")


def processes(job: Job) -> Iterator[Problem]:
    """Data-parallel copies of the model fill all processes."""
    world_size = job.world_size
    if world_size is None or any(not_there_yet(job)):
        return
    parallel = job.run.parallel
    sizes, needed = sizes_of(parallel), model_processes(parallel)
    if world_size % needed == 0:
        sizes, needed = expert_sizes_of(parallel), expert_processes(parallel)
    if rest := world_size % needed:
        largest = max(sizes, key=lambda name: sizes[name])
        named = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
        below = world_size - rest
        multiples = sorted(filter(None, (below, below + needed)), key=lambda number: abs(number - world_size))
        yield Problem(
            f"parallel.{largest}",
            f"{named} = {needed} processes, and the world size {world_size} is no multiple of {needed}",
            {f"parallel.{largest}": divisors_around(sizes[largest], world_size), PROCESSES: multiples},
        )


def sizes_of(parallel: ParallelSettings) -> Mapping[str, int]:
    names = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
    return {name: getattr(parallel, name) for name in names}


def expert_sizes_of(parallel: ParallelSettings) -> Mapping[str, int]:
    names = ("pipeline_model_parallel_size", "expert_model_parallel_size")
    return {"expert_tensor_parallel_size": expert_tensor_size(parallel), **{name: getattr(parallel, name) for name in names}}


def batch(job: Job) -> Iterator[Problem]:
    """Every copy of the model gets the same number of micro-batches. How many copies there are is not known where processes do not fit."""
    if job.purpose != "train":
        return
    train, fits = job.run.train, not any(processes(job)) and not any(not_there_yet(job))
    copies = replicas(job.run.parallel, job.world_size) if job.world_size and fits else 1
    samples, step = train.global_batch_size, train.micro_batch_size * copies
    if rest := samples % step:
        below = samples - rest
        ranks = f" x {copies} data-parallel replicas" if copies > 1 else ""
        yield Problem(
            GLOBAL_BATCH,
            f"{samples} is no multiple of micro_batch_size {train.micro_batch_size}{ranks} = {step}",
            {
                GLOBAL_BATCH: sorted(filter(None, (below, below + step)), key=lambda size: abs(size - samples)),
                MICRO_BATCH: divisors_around(train.micro_batch_size, samples // copies) if samples % copies == 0 else (),
            },
        )


RULES: Sequence[Callable[[Job], Iterator[Problem]]] = (
    not_there_yet,
    language_model_over_tensor_ranks,
    vocabulary_over_tensor_ranks,
    sequences_over_tensor_ranks,
    encoders_over_tensor_ranks,
    stage_of_the_encoders,
    layers_over_stages,
    experts_over_ranks,
    overlaps,
    processes,
    batch,
)
