"""Who owns a parameter (I9): which ranks hold it, count it in the gradient norm and store it in a checkpoint.

All four follow from one description, `sharded_state_dict`. Its `replica_id` counts the copies of a tensor, the data-parallel ones last: the
copy of number zero is stored, and of the ranks that share their data the one that holds it counts it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()

from megatron.core.dist_checkpointing.dict_utils import nested_values  # noqa: E402
from megatron.core.dist_checkpointing.mapping import (  # noqa: E402
    ShardedBase,
    ShardedTensor,
    ShardedTensorFactory,
    apply_factories,
)
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate  # noqa: E402
from megatron.core.transformer.module import param_is_not_shared  # noqa: E402
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint  # noqa: E402

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

__all__ = [
    "LAYER_BY_LAYER",
    "Piece",
    "describe_copy",
    "described_parameters",
    "is_counted",
    "mark_owned",
    "number_copies",
    "owned_parameters",
    "pieces",
    "sharded_state_dict",
]

LAYER_BY_LAYER = {"non_homogeneous_layers": True}
"""Megatron's metadata for naming every layer by its number, instead of one stacked tensor of all layers."""


def number_copies(described: Mapping[str, Any], groups: ProcessGroupCollection) -> None:
    """Tells apart the copies of a component that the language model's tensor ranks hold, where its own tensor size is smaller."""
    tensor_ranks = groups.tp_dp_cp.size() // groups.dp_cp.size()
    if tensor_ranks == groups.tp.size():
        return
    copy = groups.tp_dp_cp.rank() % tensor_ranks // groups.tp.size()
    for part in nested_values(described):
        if isinstance(part, ShardedBase):
            part.replica_id = (copy, *replica(part))


def replica(part: ShardedBase) -> tuple[int, ...]:
    return part.replica_id if isinstance(part.replica_id, tuple) else (part.replica_id,)


def describe_copy(described: Mapping[str, Any], name: str, original: str) -> None:
    """The tensor that is described as `name` is another stage's copy of the one whose global name is `original`."""
    part = described[name]
    part.key = original
    part.replica_id = (replica(part)[0] + 1, *replica(part)[1:])


def described_parameters(module: Any) -> Iterator[Any]:
    """What `sharded_state_dict` says of every parameter of a component: `data`, the parameter, and `key`, its name in the whole model."""
    for part in nested_values(module.sharded_state_dict()):
        if isinstance(part, ShardedTensor | ShardedTensorFactory) and isinstance(part.data, nn.Parameter):
            yield part


def mark_owned(described: Iterable[Any]) -> None:
    """Marks `described_parameters` of a component for Megatron's gradient norm, so that each is counted once.

    Megatron's layers mark split tensors themselves, but only while they draw initial values, which ours do not; and a layer with tensor
    size 1 marks its parameters as split too.
    """
    for part in described:
        # Megatron counts what is split over tensor ranks everywhere, and of that what is not shared.
        part.data.tensor_model_parallel = True
        part.data.shared = any(replica(part)[:-1])


def is_counted(parameter: Any) -> bool:
    """Whether the gradient norm has this rank's gradient of a parameter, or of what the optimizer holds in its place: a part of it, or its
    float32 original, either of which carries the marks."""
    return bool(param_is_not_shared(parameter) and param_is_not_tensor_parallel_duplicate(parameter))


def owned_parameters(module: Any) -> Iterator[tuple[nn.Parameter, int]]:
    """The parameters of a component whose first copy is on this rank, and how many values of each are not vocabulary padding."""
    for part in described_parameters(module):
        if not any(replica(part)):
            rows = module.published_rows(part.key)
            padding = 0 if rows is None else max(0, part.global_offset[0] + part.data.shape[0] - max(rows, part.global_offset[0]))
            yield part.data, part.data.numel() - padding * math.prod(part.data.shape[1:])


def sharded_state_dict(
    module: nn.Module,
    prefix: str,
    sharded_offsets: tuple[Any, ...],
    metadata: dict[str, Any] | None,
    *,
    groups: ProcessGroupCollection,
) -> dict[str, Any]:
    """Every tensor of `module` and its place in the whole, by global name.

    A child with a `sharded_state_dict` of its own (Megatron's layers) describes itself; everything else is replicated over the component's
    tensor ranks.
    """
    metadata = {**LAYER_BY_LAYER, **(metadata or {}), "dp_cp_group": groups.dp_cp}
    own: dict[str, Any] = {}
    module._save_to_state_dict(own, "", keep_vars=True)
    described: dict[str, Any] = make_sharded_tensors_for_checkpoint(
        own, prefix, sharded_offsets=sharded_offsets, tp_group=groups.tp, dp_cp_group=groups.dp_cp
    )
    name: str
    child: Any
    for name, child in module.named_children():
        child_prefix = f"{prefix}{name}."
        if hasattr(child, "sharded_state_dict"):
            described.update(child.sharded_state_dict(child_prefix, sharded_offsets, metadata))
        else:
            described.update(sharded_state_dict(child, child_prefix, sharded_offsets, metadata, groups=groups))
    return described


@dataclass(frozen=True)
class Piece:
    """A part of a global tensor that this rank holds."""

    name: str
    """Global name, the same in every layout."""
    tensor: Tensor
    """The part itself: writing to it changes the model."""
    shape: tuple[int, ...]
    """Of the whole tensor, vocabulary padding included."""
    offset: tuple[int, ...]
    """Where the part begins in it."""

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(start, start + size) for start, size in zip(self.offset, self.tensor.shape, strict=True))


def pieces(module: Any, prefix: str = "") -> Iterator[Piece]:
    """Everything of a component that this rank holds; a fused tensor such as gate and up comes in its parts, under one name."""
    described = module.sharded_state_dict(prefix)
    apply_factories(described)
    for part in nested_values(described):
        if isinstance(part, ShardedTensor):
            offset, shape = part.global_offset, part.global_shape
            yield Piece(part.key, part.data.detach(), tuple(shape), tuple(offset))
