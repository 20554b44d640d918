from __future__ import annotations

from collections import Counter

import pytest

from loongforge_core.data.sampler import Place, Sampler, micro_batches


def sampler(**changes: int | bool) -> Sampler:
    return Sampler(**{"num_samples": 10, "global_batch_size": 4, "seed": 3, "shuffle": True, **changes})  # type: ignore[arg-type]


def indices(places: list[Place]) -> list[int]:
    return [place.index for place in places]


def test_every_sample_once_an_epoch_though_batches_cross_its_end() -> None:
    run = sampler()
    order = [index for step in range(5) for index in indices(run.step(step))]
    assert Counter(order[:10]) == Counter(order[10:]) == Counter(range(10))
    assert order[:10] != order[10:]


def test_a_batch_larger_than_the_data_set() -> None:
    assert Counter(indices(sampler(global_batch_size=25).step(0))) == Counter(
        [*range(10), *range(10), *indices(sampler(global_batch_size=25).step(0))[20:]]
    )


def test_the_order_depends_on_the_seed_only() -> None:
    """Nothing but the step number is needed to go on, and the batch size cuts one and the same sequence."""
    forward = [sampler().step(step) for step in range(9)]
    run = sampler()
    assert [run.step(step) for step in (8, 0, 4)] == [forward[8], forward[0], forward[4]]
    assert [place for step in forward for place in step] == [
        place for step in range(6) for place in sampler(global_batch_size=6).step(step)
    ]
    assert sampler(seed=4).step(0) != forward[0]


def test_without_shuffling_samples_come_as_they_stand() -> None:
    run = sampler(shuffle=False)
    assert [indices(run.step(step)) for step in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_share_a_step(size: int) -> None:
    run = sampler()
    shares = [run.share(2, rank=rank, size=size) for rank in range(size)]
    assert {len(share) for share in shares} == {4 // size}
    assert [place for share in shares for place in share] == run.step(2)


def test_shares_that_do_not_come_out_even() -> None:
    with pytest.raises(ValueError, match="global batch size 4 is not a multiple of 3 data-parallel ranks"):
        sampler().share(0, size=3)
    with pytest.raises(ValueError, match="5 samples of a rank's step are not a multiple of micro-batch size 2"):
        list(micro_batches(range(5), 2))


def test_micro_batches() -> None:
    assert [list(part) for part in micro_batches([5, 6, 7, 8], 2)] == [[5, 6], [7, 8]]


def test_random_numbers_belong_to_a_place() -> None:
    first, second = sampler().step(1)[:2]
    assert sampler().random(first).random() == sampler().random(first).random()
    draws = {sampler().random(first).random(), sampler().random(second).random(), sampler(seed=4).random(first).random()}
    assert len(draws) == 3
    again = Place(position=first.position + 10, index=first.index)  # the same sample, an epoch later
    assert sampler().random(again).random() != sampler().random(first).random()
