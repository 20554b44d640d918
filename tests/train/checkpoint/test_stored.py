"""A range of a flattened tensor, cut into boxes of it; and tensors that ranks write by halves or twice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ReplicaId, ShardedTensorFactory
from torch import Tensor, distributed, nn

from loongforge_core.errors import PluginError
from loongforge_core.parallel.launch import RankError, run_ranks
from loongforge_core.parallel.repairs import writing_in_this_process
from loongforge_core.train.checkpoint.stored import boxes, stored_tensors


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 5), (4, 1), (3, 4), (2, 3, 4), (3, 1, 2, 2)])
def test_a_range_of_any_tensor_is_cut_into_few_boxes(shape: tuple[int, ...]) -> None:
    tensor = torch.arange(math.prod(shape)).view(shape)
    for first, last in itertools.combinations_with_replacement(range(tensor.numel() + 1), 2):
        seen, found = [], list(boxes(first, last, shape))
        for position, offset, size in found:
            box = tensor[tuple(slice(start, start + length) for start, length in zip(offset, size, strict=True))]
            assert torch.equal(box, tensor.view(-1)[position : position + math.prod(size)].view(size))
            seen += box.flatten().tolist()
        assert seen == list(range(first, last)), "every value once, in order"
        assert len(found) <= max(1, 2 * len(shape) - 1)


def write(folder: str, size: int, offset: int) -> None:
    """Of a tensor of eight values, rank 0 writes the first four, and rank 1 so many from there on."""
    rank = distributed.get_rank()
    size, offset = (size, offset) if rank else (4, 0)
    part = ShardedTensor("encoder.weight", torch.zeros(size), torch.float32, (size,), (8,), (offset,), axis_fragmentations=None)
    with writing_in_this_process():
        dist_checkpointing.save({"part": part}, folder)


@pytest.mark.parametrize(("size", "offset", "said"), [(3, 5, "invalid fill"), (5, 3, "overlapping")])
def test_gaps_and_overlaps_are_refused(tmp_path: Path, size: int, offset: int, said: str) -> None:
    """By torch: nothing here looks for them again."""
    run_ranks(write, 2, str(tmp_path), 4, 4)
    with pytest.raises(RankError, match=rf"key:encoder\.weight (has )?{said}"):
        run_ranks(write, 2, str(tmp_path), size, offset)


class SplitByColumns(nn.Module):
    """A component whose fused weight is described in parts that do not follow one another in memory."""

    def __init__(self, parts: Callable[[Tensor], Sequence[Tensor]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).view(3, 4))
        self.parts = parts

    def components(self) -> dict[str, nn.Module]:
        return {"image_encoder": self}

    def published_rows(self, name: str) -> None:
        assert name == "weight"

    def sharded_state_dict(self, prefix: str = "") -> dict[str, ShardedTensorFactory]:
        def build(key: str, data: Tensor, replica_id: ReplicaId, flattened_range: slice | None) -> list[ShardedTensor]:
            return [ShardedTensor.from_rank_offsets(key, part, replica_id=replica_id) for part in self.parts(data)]

        return {f"{prefix}weight": ShardedTensorFactory(f"{prefix}weight", self.weight, build, lambda parts: parts, (0, 0, 0))}


def test_parts_have_their_place_in_the_whole() -> None:
    starts = [(stored.start, stored.part.local_shape) for stored in stored_tensors([SplitByColumns(lambda weight: weight.split([1, 2]))])]
    assert starts == [(0, (1, 4)), (4, (2, 4))]
    for scattered in (lambda weight: weight.chunk(2, dim=1), lambda weight: [weight.detach().clone()]):
        with pytest.raises(PluginError, match=r"image_encoder\.weight .* not consecutive in memory"):
            list(stored_tensors([SplitByColumns(scattered)]))
