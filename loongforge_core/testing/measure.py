"""What one rank of a layout computes, to be compared: weights, gradients, losses, and who owns what.

What it needs is imported at the top: the process that ranks are forked from imports this module, and so none of them has to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories, is_main_replica
from torch import Tensor, distributed

from loongforge_core.config.composition import Composition
from loongforge_core.config.settings import EncoderLayout, ParallelSettings, RunSettings
from loongforge_core.model.batch import Batch
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.bookkeeping import described_parameters, is_counted, pieces
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.registry.registry import Registry
from loongforge_core.train.step import Trainer, build_trainer

__all__ = ["Layout", "Measured", "Part", "measure", "measure_steps", "share", "trainer_in"]

BUCKET_SIZE = 2_000
"""So that small models have several buckets too."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout in few words; `settings` says it in those of `parallel:` and `train:`."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    """Ranks that share experts; they are among the others, and no more of them."""
    expert_tensor: int | None = None
    sequence_parallel: bool = False
    first_stage: int | None = None
    """Decoder layers of the first pipeline stage."""
    last_stage: int | None = None
    encoder_stage: bool = False
    """The first pipeline stage holds no decoder layer."""
    encoders: Mapping[str, int] = field(default_factory=dict)
    """Tensor size of encoder slots; those that are not named are replicated."""
    optimizer: Literal["whole", "distributed", "overlapped"] = "whole"
    """`overlapped`: distributed, with gradients reduced and weights gathered while passes go on."""
    overlap_grad_reduce: bool = False
    """Gradients are reduced while the backward pass goes on, whatever the optimizer."""
    recompute: Literal["none", "selective", "full"] = "none"

    @property
    def world_size(self) -> int:
        return self.data * self.tensor * self.pipeline

    def __str__(self) -> str:
        sizes = [f"{name} {size}" for name in ("data", "tensor", "pipeline", "expert") if (size := getattr(self, name)) > 1]
        extras = [
            "" if self.expert_tensor is None else f"each expert on {self.expert_tensor} tensor ranks",
            "sequence parallelism" if self.sequence_parallel else "",
            f"{self.first_stage} layers first" if self.first_stage is not None else "",
            f"{self.last_stage} layers last" if self.last_stage is not None else "",
            "an encoder stage" if self.encoder_stage else "",
            *(f"{slot} on {size} tensor ranks" for slot, size in self.encoders.items()),
            "" if self.optimizer == "whole" else f"{self.optimizer} optimizer",
            "overlapped reduction" if self.overlap_grad_reduce else "",
            "" if self.recompute == "none" else f"{self.recompute} recomputation",
        ]
        named = ", ".join(filter(None, extras))
        return (" x ".join(sizes) or "one process") + (f" with {named}" if named else "")

    def settings(self, run: RunSettings) -> RunSettings:
        """The same run in this layout."""
        encoders = {
            slot: EncoderLayout(layout="tensor", tensor_model_parallel_size=size) if (size := self.encoders.get(slot)) else EncoderLayout()
            for slot in run.parallel.encoders
        }
        parallel = ParallelSettings(
            tensor_model_parallel_size=self.tensor,
            pipeline_model_parallel_size=self.pipeline,
            expert_model_parallel_size=self.expert,
            expert_tensor_parallel_size=self.expert_tensor,
            encoder_pipeline_model_parallel_size=int(self.encoder_stage),
            num_layers_in_first_pipeline_stage=self.first_stage,
            num_layers_in_last_pipeline_stage=self.last_stage,
            sequence_parallel=self.sequence_parallel,
            use_distributed_optimizer=self.optimizer != "whole",
            overlap_grad_reduce=self.overlap_grad_reduce or self.optimizer == "overlapped",
            overlap_param_gather=self.optimizer == "overlapped",
            ddp_bucket_size=BUCKET_SIZE,
            encoders=encoders,
        )
        return run.model_copy(update={"parallel": parallel, "train": run.train.model_copy(update={"recompute": self.recompute})})


@dataclass(frozen=True)
class Part:
    """What a rank holds of a tensor."""

    name: str
    """The slot, then the global name."""
    offset: tuple[int, ...]
    value: Tensor
    rows: int | None
    """Of the whole tensor without vocabulary padding; None where it has none."""


@dataclass(frozen=True)
class Owned:
    """A part of a parameter, and what this rank does with it."""

    name: str
    """The slot, then the global name."""
    shape: tuple[int, ...]
    """Of the whole parameter, vocabulary padding included."""
    where: tuple[slice, ...]
    replica: int
    """The rank among those that hold copies of the same values: data-parallel ones, or where ranks share experts, the experts' own."""
    replicas: int
    """How many these are."""
    counted: bool
    """In the gradient norm."""
    stored: bool
    """In a checkpoint."""


@dataclass(frozen=True)
class Measured:
    """One rank's numbers."""

    initial: tuple[Part, ...]
    gradients: tuple[Part, ...]
    """Of the first step's mean loss."""
    final: tuple[Part, ...]
    losses: tuple[float | None, ...]
    grad_norms: tuple[float | None, ...]
    losses_by_content: tuple[Mapping[str, float | None], ...]
    """And that of the routers."""
    grad_norms_by_slot: tuple[Mapping[str, float | None], ...]
    learning_rates: tuple[float, ...]
    owned: tuple[Owned, ...]


def measure(composition: Composition, layout: Layout, batches: Sequence[Sequence[Batch]]) -> Measured:
    """This rank's numbers, in a fresh process of the right number of them."""
    trainer = trainer_in(composition, layout)
    return measure_steps(trainer, [share(step, trainer.groups.dp.rank(), layout.data) for step in batches])


def measure_steps(trainer: Trainer, shares: Sequence[Sequence[Batch]]) -> Measured:
    """A step on this rank's share of each global batch; the gradients are seen when the first step's pass has left them."""
    initial = parts(trainer)
    seen: list[tuple[Part, ...]] = []
    watched = replace(trainer, optimizer=Watched(trainer.optimizer, lambda: seen.append(gradients_of(trainer))))
    results = [(trainer if seen else watched).step(each) for each in shares]
    trainer.gather_weights()
    return Measured(
        initial=initial,
        gradients=seen[0],
        final=parts(trainer),
        losses=tuple(result.loss for result in results),
        grad_norms=tuple(result.grad_norm for result in results),
        losses_by_content=tuple({**result.loss_by_content, "routers": result.router_loss} for result in results),
        grad_norms_by_slot=tuple(result.grad_norm_by_slot for result in results),
        learning_rates=tuple(result.learning_rate for result in results),
        owned=owned_parts(trainer),
    )


class Watched:
    """An optimizer, and a look at what it is going to step with."""

    def __init__(self, optimizer: Any, look: Callable[[], None]) -> None:
        self.optimizer, self.look = optimizer, look

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def prepare_grads(self) -> Any:
        self.look()
        return self.optimizer.prepare_grads()


def trainer_in(composition: Composition, layout: Layout) -> Trainer:
    """The composition on this rank of a layout, with the initial weights that its seed gives."""
    composition = replace(composition, run=layout.settings(composition.run))
    initialise_groups(composition.run.parallel, seed=composition.run.train.seed)
    registry = Registry()  # finding out what else is installed would be a seventh of what a rank does
    for spec in (composition.recipe, *(slot.spec for slot in composition.slots.values())):
        registry.register(spec)
    return build_trainer(composition, [OmniModelProvider(composition=composition, registry=registry)()])


def share(micro_batches: Sequence[Batch], rank: int, size: int) -> Sequence[Batch]:
    per_rank, rest = divmod(len(micro_batches), size)
    assert not rest, f"{len(micro_batches)} micro-batches cannot be shared by {size} data-parallel ranks"
    return micro_batches[rank * per_rank : (rank + 1) * per_rank]


def gradients_of(trainer: Trainer) -> tuple[Part, ...]:
    """Those that a pass has left. They take the place of the weights while their parts are copied: so what names and cuts weights serves
    them too."""
    gather_reduced(trainer)
    trained = [parameter for model in trainer.models for parameter in model.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for parameter in trained:
            parameter.copy_(parameter.main_grad)  # type: ignore[attr-defined]
        found = parts(trainer)
        for parameter, weight in zip(trained, kept, strict=True):
            parameter.copy_(weight)
    return found


def gather_reduced(trainer: Trainer) -> None:
    """Of the distributed optimizer every data-parallel rank has reduced only its share of the gradients."""
    if not trainer.composition.run.parallel.use_distributed_optimizer:
        return
    for chunk in trainer.chunks:
        for buffers, group in ((chunk.buffers, trainer.groups.dp_cp), (chunk.expert_parallel_buffers, trainer.groups.expt_dp)):
            for bucket in (bucket for buffer in buffers for bucket in buffer.buckets):
                own = bucket.grad_data.view(group.size(), -1)[group.rank()].clone()
                distributed.all_gather_into_tensor(bucket.grad_data, own, group=group)


def parts(trainer: Trainer) -> tuple[Part, ...]:
    """Copies of everything that this rank holds."""
    return tuple(
        Part(f"{slot}.{piece.name}", piece.offset, piece.tensor.clone(), component.published_rows(piece.name))
        for model in trainer.models
        for slot, component in model.components().items()
        for piece in pieces(component)
    )


def owned_parts(trainer: Trainer) -> tuple[Owned, ...]:
    """Of every part of a parameter that is here, whether this rank counts it in the gradient norm and stores it in a checkpoint."""
    found = []
    for slot, component in (pair for model in trainer.models for pair in model.components().items()):
        counted = {part.key: is_counted(part.data) for part in described_parameters(component)}
        shared = {part.key for part in described_parameters(component) if not getattr(part.data, "allreduce", True)}
        described = component.sharded_state_dict()
        apply_factories(described)
        for part in nested_values(described):
            if isinstance(part, ShardedTensor) and part.key in counted:
                where = tuple(slice(start, start + size) for start, size in zip(part.global_offset, part.local_shape, strict=True))
                stored = is_main_replica(part.replica_id)
                group = trainer.groups.expt_dp if part.key in shared else trainer.groups.dp
                owned = (counted[part.key], stored)
                found.append(Owned(f"{slot}.{part.key}", tuple(part.global_shape), where, group.rank(), group.size(), *owned))
    return tuple(found)
