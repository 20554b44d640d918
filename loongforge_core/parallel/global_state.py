"""Lets a component that reads Megatron's global parallel state run in groups of its own.

Our components are handed their groups and never ask; a third party's may be made of Megatron's layers without arguments, which ask
`parallel_state` when they are built, described, run, recomputed and differentiated. For them the state says, meanwhile, what their groups
are. Left out: groups of experts, which are the language model's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()

from megatron.core import parallel_state  # noqa: E402

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

__all__ = ["global_groups", "run_in_groups"]

GROUPS = {
    "tp": "_TENSOR_MODEL_PARALLEL_GROUP",
    "pp": "_PIPELINE_MODEL_PARALLEL_GROUP",
    "mp": "_MODEL_PARALLEL_GROUP",
    "cp": "_CONTEXT_PARALLEL_GROUP",
    "tp_cp": "_TENSOR_AND_CONTEXT_PARALLEL_GROUP",
    "embd": "_EMBEDDING_GROUP",
    "pos_embd": "_POSITION_EMBEDDING_GROUP",
}
"""Where Megatron keeps the groups that may be a component's own; those that share data are the same for all."""
RANKS = {
    "tp": "_TENSOR_MODEL_PARALLEL_GLOBAL_RANKS",
    "pp": "_PIPELINE_GLOBAL_RANKS",
    "mp": "_MODEL_PARALLEL_GLOBAL_RANKS",
    "cp": "_CONTEXT_PARALLEL_GLOBAL_RANKS",
    "embd": "_EMBEDDING_GLOBAL_RANKS",
    "pos_embd": "_POSITION_EMBEDDING_GLOBAL_RANKS",
}
UNSET = (
    "_MPU_TENSOR_MODEL_PARALLEL_WORLD_SIZE",
    "_MPU_TENSOR_MODEL_PARALLEL_RANK",
    "_MPU_PIPELINE_MODEL_PARALLEL_WORLD_SIZE",
    "_MPU_PIPELINE_MODEL_PARALLEL_RANK",
    "_VIRTUAL_PIPELINE_MODEL_PARALLEL_WORLD_SIZE",
    "_VIRTUAL_PIPELINE_MODEL_PARALLEL_RANK",
)
"""What would be asked before the groups."""


@contextlib.contextmanager
def global_groups(groups: ProcessGroupCollection) -> Iterator[None]:
    """Megatron's global state says `groups`; what it said before comes back, also when an exception passes."""
    if says(groups):
        yield
        return
    own: dict[str, Any] = {name: getattr(groups, field) for field, name in GROUPS.items()}
    own |= {name: distributed.get_process_group_ranks(getattr(groups, field)) for field, name in RANKS.items()}
    own |= dict.fromkeys(UNSET)
    before = {name: getattr(parallel_state, name) for name in own}
    vars(parallel_state).update(own)
    try:
        yield
    finally:
        vars(parallel_state).update(before)


def says(groups: ProcessGroupCollection) -> bool:
    return parallel_state.get_tensor_model_parallel_group(check_initialized=False) is groups.tp


def run_in_groups(
    run: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    inputs: Sequence[Tensor],
    parameters: Sequence[Tensor],
    groups: ProcessGroupCollection,
) -> tuple[Tensor, ...]:
    """`run(inputs)`, which uses `parameters`, in a global state of `groups`; its backward pass and recomputation run in it too."""
    needed = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*inputs, *parameters))
    if not needed:  # whatever it makes for itself: a graph would be differentiated later, in another state
        with torch.no_grad(), global_groups(groups):
            return tuple(run(inputs))
    if says(groups):
        return tuple(run(inputs))
    anchor = torch.empty(0, requires_grad=True)  # parameters are no inputs, and without any that needs a gradient there is no backward
    outputs: tuple[Tensor, ...] = InGroups.apply(run, groups, anchor, *inputs)  # type: ignore[no-untyped-call]
    return outputs


class InGroups(torch.autograd.Function):
    """A part of the graph whose backward pass is one call, so that the state can be changed around it. As Megatron's checkpointing, it
    lets parameters collect their gradients by themselves."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Sequence[Tensor]], groups: Any, _: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.groups = groups
        ctx.inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in inputs]
        with torch.enable_grad(), global_groups(groups):
            ctx.outputs = tuple(run(ctx.inputs))
        return tuple(output.detach() for output in ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.outputs is None:
            raise RuntimeError("an encoder in groups of its own can be differentiated once for each forward pass")
        reached = [(output, gradient) for output, gradient in zip(ctx.outputs, gradients, strict=True) if output.requires_grad]
        with global_groups(ctx.groups):
            torch.autograd.backward([output for output, _ in reached], [gradient for _, gradient in reached])
        found = tuple(tensor.grad for tensor in ctx.inputs)
        ctx.inputs = ctx.outputs = None
        return (None, None, None, *found)
