"""In every layout each value of a parameter is counted once in the gradient norm, for each data-parallel rank, and stored once (I9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from loongforge_core.config.composition import Composition
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.testing.layouts import Layout, trainer_in

LAYOUTS = (
    Layout(data=2),
    Layout(tensor=2, sequence_parallel=True),
    Layout(data=2, tensor=2),
    Layout(tensor=2, pipeline=2, sequence_parallel=True),
)


@dataclass(frozen=True)
class Owned:
    """By name: how many values of each parameter this rank counts, and how many it stores."""

    data_rank: int
    counted: Counter[str]
    stored: Counter[str]


def owned_here(composition: Composition, layout: Layout) -> Owned:
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, apply_factories, is_main_replica
    from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
    from megatron.core.transformer.module import param_is_not_shared

    trainer = trainer_in(composition, layout)
    (model,) = trainer.models
    counted: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    described: dict[str, Any] = model.sharded_state_dict()
    for part in nested_values(described):
        if not isinstance(part, ShardedTensor | ShardedTensorFactory):  # Megatron's extra states, empty here
            continue
        if param_is_not_shared(part.data) and param_is_not_tensor_parallel_duplicate(part.data):
            counted[part.key] += part.data.numel()
    apply_factories(described)
    for part in nested_values(described):
        if isinstance(part, ShardedTensor) and is_main_replica(part.replica_id):
            stored[part.key] += part.data.numel()
    return Owned(trainer.groups.dp.rank(), counted, stored)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_value_has_one_owner(llava: Callable[..., Composition], layout: Layout, tied: bool) -> None:
    composition = llava(tied=tied)
    (one,) = run_ranks(owned_here, 1, composition, Layout())
    padding = layout.tensor - 1  # rows of 16 that make the vocabulary of 101 even
    tables = ("foundation.embedding.word_embeddings.weight", "foundation.output_layer.weight")
    expected = {name: count + 16 * padding * (name in tables) for name, count in one.stored.items()}
    assert one.counted == one.stored
    ranks = run_ranks(owned_here, layout.world_size, composition, layout)
    assert dict(sum((rank.stored for rank in ranks), Counter())) == expected
    for data_rank in range(layout.data):
        assert dict(sum((rank.counted for rank in ranks if rank.data_rank == data_rank), Counter())) == expected
