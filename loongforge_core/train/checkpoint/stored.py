"""What a checkpoint stores of model and optimizer: boxes of whole tensors, by global name, the same in every layout.

    foundation.decoder.layers.0.mlp.linear_fc2.weight                             a weight
    optimizer.state.exp_avg.foundation.decoder.layers.0.mlp.linear_fc2.weight     Adam's moments of it (exp_avg, exp_avg_sq),
                                                                                  and its float32 original (fp32_param) where it is bfloat16

Of the distributed optimizer, a rank holds a range of the parameter, flattened. Megatron's own formats for it either gather all ranks'
states on every rank (`fully_reshardable`), or fit one layout only (`dp_reshardable`), or are no longer there
(`fully_sharded_model_space`); and the groups of parameters that it stores are those of rank 0, of which other pipeline stages have others.
Here a range is cut into boxes of the whole tensor, of which every rank writes and reads its own, in place. So both optimizers store the
same, and nothing that only one layout knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor, distributed

from loongforge_core.errors import PluginError
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.parallel.groups import local_device

__all__ = [
    "Stored",
    "load_objects",
    "model_state",
    "optimizer_state",
    "set_steps_of_adam",
    "steps_of_adam",
    "stored_tensors",
]


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer of this rank, or a part of one, and its place in the whole tensor."""

    whole: Tensor
    """What the module holds."""
    start: int
    """Where in it, flattened, the part begins: of a fused tensor such as gate and up, each part has a place of its own."""
    part: ShardedTensor
    rows: int | None
    """Of the whole tensor without vocabulary padding, which is not stored; None where it has none."""


def stored_tensors(models: Sequence[OmniCombinationModel]) -> Iterator[Stored]:
    for model in models:
        for slot, component in model.components().items():
            for described in nested_values(component.sharded_state_dict(f"{slot}.")):
                if not isinstance(described, ShardedTensor | ShardedTensorFactory):
                    continue
                for part in nested_values({"": described.build() if isinstance(described, ShardedTensorFactory) else described}):
                    rows = component.published_rows(part.key.removeprefix(f"{slot}."))
                    yield Stored(described.data, start_of(part, described.data), part, rows)


def start_of(part: ShardedTensor, whole: Tensor) -> int:
    if part.data.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr() or not part.data.is_contiguous():
        raise PluginError(f"{part.key} is described in parts that are copies, or not consecutive in memory: a checkpoint cannot hold them")
    return int(part.data.storage_offset() - whole.storage_offset())


# ---- of the model


def model_state(models: Sequence[OmniCombinationModel]) -> dict[str, Any]:
    """Every tensor of the models, to be written from or read into, and by virtual stage the few things that are none."""
    tensors = [box for stored in stored_tensors(models) for box in boxes_of(stored, stored.whole.detach().view(-1), 0)]
    return {"tensors": numbered(tensors), "objects": {str(index): objects(model) for index, model in enumerate(models)}}


def objects(model: OmniCombinationModel) -> dict[str, Any]:
    """`_extra_state` of modules: by name, what is no tensor."""
    described = model.sharded_state_dict()
    return {name: value for name, value in described.items() if not isinstance(value, ShardedTensor | ShardedTensorFactory)}


def load_objects(models: Sequence[OmniCombinationModel], loaded: Mapping[str, Any]) -> None:
    """What of a loaded `model_state` is not in place already."""
    for index, model in enumerate(models):
        for slot, component in model.components().items():
            own = {name.removeprefix(f"{slot}."): value for name, value in loaded[str(index)].items() if name.startswith(f"{slot}.")}
            component.load_state_dict(own, strict=False)


# ---- of the optimizer


def optimizer_state(optimizer: Any, models: Sequence[OmniCombinationModel]) -> dict[str, Any]:
    """Everything that the optimizer keeps of its parameters, to be written from or read into; made first where it is not there yet."""
    parts = list(parts_of(optimizer))
    for part in parts:
        part.init_state_fn(part.optimizer, part.config)
        if counts_by_parameter(part):
            for group, parameter in parameters_of(part):
                part.optimizer.state[parameter].setdefault("step", count(0, group, parameter))
    tensors = [box for stored in stored_tensors(models) for part in parts for box in state_boxes(part, stored)]
    return numbered(tensors)


def parts_of(optimizer: Any) -> Iterator[Any]:
    """Megatron's optimizers of which this one is a chain, without those that have nothing to train on this rank."""
    return (part for part in optimizer.chained_optimizers if part.optimizer is not None)


def parameters_of(optimizer: Any) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """With their groups; of the distributed optimizer, this rank's ranges of them."""
    return ((group, parameter) for group in optimizer.optimizer.param_groups for parameter in group["params"])


def state_boxes(optimizer: Any, stored: Stored) -> Iterator[ShardedTensor]:
    """What one of Megatron's optimizers keeps of a tensor; nothing where it does not train it, or not here."""
    parameter: Any = stored.whole
    if not isinstance(optimizer, DistributedOptimizer):
        main, start, replica = getattr(parameter, "main_param", parameter), 0, stored.part.replica_id
        if main not in optimizer.optimizer.state:
            return
    elif place := optimizer.model_param_group_index_map.get(parameter):
        group, order = place
        main = optimizer.optimizer.param_groups[group]["params"][order]
        start = optimizer._get_model_param_range_map(parameter)["param"].start
        replica = (*stored.part.replica_id[:-1], 0)  # data-parallel ranks hold no copies, but a range each
    else:
        return
    state = optimizer.optimizer.state[main]
    values = {"exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
    if main.dtype != parameter.dtype:
        values["fp32_param"] = main.detach()
    for name, value in values.items():
        yield from boxes_of(stored, value.view(-1), start, prefix=f"optimizer.state.{name}.", replica=replica)


# ---- steps


def steps_of_adam(optimizer: Any) -> int:
    """Steps that the optimizer has taken: fewer than the run's where batches were without target tokens.

    All ranks call it: those on which nothing trains do not know.
    """
    counts = [0]
    for part in parts_of(optimizer):
        holders = part.optimizer.state.values() if counts_by_parameter(part) else part.optimizer.param_groups
        counts += [int(holder.get("step", 0)) for holder in holders]
    most = torch.tensor(max(counts), device=local_device())
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)


def set_steps_of_adam(optimizer: Any, steps: int) -> None:
    """After `optimizer_state`. Every parameter gets a tensor of its own: where they share one, torch increments it once for each."""
    for part in parts_of(optimizer):
        for group, parameter in parameters_of(part):
            if counts_by_parameter(part):
                part.optimizer.state[parameter]["step"] = count(steps, group, parameter)
            else:
                group["step"] = steps


def counts_by_parameter(optimizer: Any) -> bool:
    """torch's own AdamW counts steps in a tensor for every parameter, transformer-engine's and Apex's in a number for every group."""
    return isinstance(optimizer.optimizer, torch.optim.AdamW)


def count(steps: int, group: Mapping[str, Any], parameter: Tensor) -> Tensor:
    """As torch makes it: where the kernel reads it, it is beside the parameter, else on the CPU."""
    return torch.tensor(float(steps), device=parameter.device if group["fused"] or group["capturable"] else None)


# ---- boxes


def boxes_of(
    stored: Stored, value: Tensor, start: int, *, prefix: str = "", replica: tuple[int, ...] | None = None
) -> Iterator[ShardedTensor]:
    """The part of `stored` that `value` covers, a range of the flattened tensor from `start` on, as boxes of the whole tensor."""
    part = stored.part
    shape = (1,) * part.prepend_axis_num + tuple(part.local_shape)
    first = max(start, stored.start) - stored.start
    last = min(start + value.numel(), stored.start + math.prod(shape)) - stored.start
    for position, offset, size in boxes(first, last, shape):
        place = tuple(base + own for base, own in zip(part.global_offset, offset, strict=True))
        begin = stored.start + position - start
        yield from published(
            ShardedTensor(
                key=prefix + part.key,
                data=value[begin : begin + math.prod(size)].view(size),
                dtype=value.dtype,
                local_shape=size,
                global_shape=tuple(part.global_shape),
                global_offset=place,
                axis_fragmentations=None,  # boxes of any size; torch refuses gaps and overlaps
                replica_id=part.replica_id if replica is None else replica,
            ),
            stored.rows,
        )


def boxes(first: int, last: int, shape: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Cuts a range of a flattened tensor into boxes of it: where each begins in the flattened tensor, its offset and its size.

    Of a matrix: the end of a row, whole rows, the beginning of a row.
    """
    if first >= last:
        return
    if len(shape) <= 1:
        yield first, (first,) * len(shape), (last - first,) * len(shape)
        return
    row = math.prod(shape[1:])
    whole_from, whole_to = -(-first // row), last // row
    if whole_from >= whole_to:  # no whole row
        for index in range(first // row, -(-last // row)):
            yield from boxes_in_row(index, max(first, index * row), min(last, (index + 1) * row), shape)
        return
    yield from boxes_in_row(first // row, first, whole_from * row, shape)
    yield whole_from * row, (whole_from, *(0 for _ in shape[1:])), (whole_to - whole_from, *shape[1:])
    yield from boxes_in_row(whole_to, whole_to * row, last, shape)


def boxes_in_row(index: int, first: int, last: int, shape: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    base = index * math.prod(shape[1:])
    for position, offset, size in boxes(first - base, last - base, shape[1:]):
        yield base + position, (index, *offset), (1, *size)


def published(box: ShardedTensor, rows: int | None) -> Iterator[ShardedTensor]:
    """The box without vocabulary padding, of a tensor without it; nothing where it is nothing but padding."""
    if rows is None:
        yield box
        return
    box.global_shape = (rows, *box.global_shape[1:])
    if kept := max(0, min(box.local_shape[0], rows - box.global_offset[0])):
        box.data = box.data[:kept]
        box.local_shape = (kept, *box.local_shape[1:])
        yield box


def numbered(tensors: Sequence[ShardedTensor]) -> dict[str, ShardedTensor]:
    return {str(number): tensor for number, tensor in enumerate(tensors)}
