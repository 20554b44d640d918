"""Megatron's optimizer and scheduler, with a learning rate, a weight decay and a gradient norm per slot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.optimizer import OptimizerConfig, ParamKey, clip_grads, get_megatron_optimizer
from megatron.core.optimizer.optimizer_config import ParamPredicate
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch import Tensor, distributed

from loongforge_core.config.composition import Composition
from loongforge_core.config.settings import RunSettings, SlotSettings, TrainSettings
from loongforge_core.errors import ConfigError, Issue
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.parallel.bookkeeping import is_counted
from loongforge_core.parallel.groups import local_device

__all__ = [
    "ParameterGroup",
    "build_optimizer",
    "build_scheduler",
    "move_weights",
    "parameter_groups",
    "require_training",
    "squared_norms",
]


@dataclass(frozen=True)
class ParameterGroup:
    """Trainable parameters of one slot that share a learning rate and a weight decay."""

    slot: str
    lr: float
    """At the peak of the schedule."""
    weight_decay: float
    parameters: tuple[Tensor, ...]


def parameter_groups(composition: Composition, models: Sequence[OmniCombinationModel]) -> list[ParameterGroup]:
    """Two groups per slot: matrices decay, vectors (biases, norms) do not. None where nothing trains in these stages."""
    groups = []
    for model in models:
        for slot, component in model.components().items():
            lr, weight_decay = slot_rates(composition.slots[slot].settings, composition.run.train)
            trainable = list(dict.fromkeys(parameter for parameter in component.parameters() if parameter.requires_grad))
            for decay, parameters in (
                (weight_decay, tuple(parameter for parameter in trainable if parameter.dim() > 1)),
                (0.0, tuple(parameter for parameter in trainable if parameter.dim() <= 1)),
            ):
                if parameters:
                    groups.append(ParameterGroup(slot, lr, decay, parameters))
    return groups


def require_training(composition: Composition, groups: Sequence[ParameterGroup], ranks: Any) -> None:
    """Raises ConfigError where no rank of the process group `ranks` has anything to train."""
    trains = [bool(groups)] * ranks.size()
    if ranks.size() > 1:
        distributed.all_gather_object(trains, bool(groups), group=ranks)
    if not any(trains):
        frozen = [Issue(f"freeze: {slot.settings.freeze}", f"model.{name}") for name, slot in composition.slots.items()]
        raise ConfigError([Issue("nothing trains: every parameter is frozen"), *frozen])


def slot_rates(slot: SlotSettings, train: TrainSettings) -> tuple[float, float]:
    """Learning rate and weight decay of a slot."""
    return (
        train.lr if slot.lr is None else slot.lr,
        train.weight_decay if slot.weight_decay is None else slot.weight_decay,
    )


def build_optimizer(groups: Sequence[ParameterGroup], chunks: Sequence[Any], run: RunSettings, *, dtype: torch.dtype) -> Any:
    """AdamW with decoupled weight decay: transformer-engine's or Apex's fused one, torch's own where neither is installed (on a CPU)."""
    train = run.train
    config = OptimizerConfig(
        optimizer="adam",
        lr=train.lr,
        min_lr=train.min_lr,
        weight_decay=train.weight_decay,
        adam_beta1=train.adam_beta1,
        adam_beta2=train.adam_beta2,
        adam_eps=train.adam_eps,
        decoupled_weight_decay=True,
        clip_grad=train.clip_grad,
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        use_distributed_optimizer=run.parallel.use_distributed_optimizer,
        overlap_param_gather=run.parallel.overlap_param_gather,
    )
    optimizer = get_megatron_optimizer(config, list(chunks), config_overrides=dict(overrides(groups, train)))
    for group in optimizer.param_groups:
        if "fused" in group:  # torch's own: one pass over each tensor instead of a dozen
            group["fused"] = True
    return optimizer


def overrides(groups: Sequence[ParameterGroup], train: TrainSettings) -> Iterator[tuple[ParamKey, Mapping[str, Any]]]:
    """What makes Megatron form these groups, each of one slot, whose name it keeps with the group's rates.

    Megatron 0.16 matches the groups of a checkpoint by `lr_mult` and `wd_mult` alone (0.19 by `max_lr` too), and nothing else reads
    `lr_mult`. So these two hold the rates themselves, and the scheduler's own weight decay is 1.
    """
    for index, group in enumerate(groups):
        members = frozenset(map(id, group.parameters))
        predicate = ParamPredicate(name=f"group {index}", fn=lambda parameter, members=members: id(parameter) in members)
        yield (
            ParamKey(predicate=predicate),
            {
                "max_lr": group.lr,
                "min_lr": train.min_lr * group.lr / train.lr,
                "lr_mult": group.lr,
                "wd_mult": group.weight_decay,
                "slot": group.slot,
            },
        )


def squared_norms(optimizer: Any, slots: Sequence[str]) -> Tensor:
    """The square of the norm of each slot's gradient, this rank's part of it, float64 `[slots]`: their sums over all ranks are the squares.

    Every value is counted once (I9): by the rank that Megatron counts it on, and where several have counted the same, by each its share.
    """
    squares = torch.zeros(len(slots), dtype=torch.float64, device=local_device())
    no_overflow = torch.zeros(1, dtype=torch.int, device=squares.device)
    for part in optimizer.chained_optimizers:
        replicas = distributed.get_world_size() // part.get_grad_stats_parallel_group().size()
        for group in part.param_groups:
            if gradients := [each.grad for each in group["params"] if each.grad is not None and is_counted(each)]:
                norm, _ = clip_grads.multi_tensor_applier(clip_grads.l2_norm_impl, no_overflow, [gradients], False)
                squares[slots.index(group["slot"])] += norm.double().squeeze() ** 2 / replicas
    return squares


def move_weights(optimizer: Any, *, grad_norm: float, clip_grad: float) -> None:
    """What `optimizer.step` does after it has made gradients ready and measured their norm; with `clip_grad` 0 it clips nothing."""
    for part in optimizer.chained_optimizers:
        if clip_grad and (parameters := part.get_parameters()):
            clip_grads.clip_grad_by_total_norm_fp32(parameters, max_norm=clip_grad, total_norm=grad_norm)
    optimizer.step_with_ready_grads()


def build_scheduler(optimizer: Any, train: TrainSettings) -> OptimizerParamScheduler:
    """Warm-up from zero, then decay to `min_lr` at the last step; counts steps. Every group's rate keeps its ratio to `train.lr`."""
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=train.lr,
        min_lr=train.min_lr,
        lr_warmup_steps=train.lr_warmup_steps,
        # A run that ends before its warm-up does has no decay; Megatron asks for one step of it.
        lr_decay_steps=max(train.steps, train.lr_warmup_steps + 1),
        lr_decay_style=train.lr_decay_style,
        start_wd=1.0,
        end_wd=1.0,
        wd_incr_steps=train.steps,
        wd_incr_style="constant",
    )
