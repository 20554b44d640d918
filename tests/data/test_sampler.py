"""Which samples make step k, and which rank has which of them, is a pure function of seed and k."""

from __future__ import annotations

from collections import Counter

import pytest

from loongforge_core.data.sampler import Place, Sampler, micro_batches


def sampler(**changes: object) -> Sampler:
    return Sampler(**{"sizes": [10], "global_batch_size": 4, "seed": 3, "shuffle": True, **changes})  # type: ignore[arg-type]


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


def test_sources_are_mixed_by_weight_and_each_is_gone_through_by_itself() -> None:
    run = sampler(sizes=[10, 4], weights=[0.7, 0.3], global_batch_size=10)
    steps = [indices(run.step(step)) for step in range(8)]
    assert all(sum(index >= 10 for index in step) == 3 for step in steps)
    first, second = ([index for step in steps for index in step if (index >= 10) == which] for which in (False, True))
    assert [Counter(first[start : start + 10]) for start in range(0, 50, 10)] == [Counter(range(10))] * 5
    assert [Counter(second[start : start + 4]) for start in range(0, 24, 4)] == [Counter(range(10, 14))] * 6
    assert len({tuple(second[start : start + 4]) for start in range(0, 24, 4)}) > 1
    assert first == [index for step in range(14) for index in indices(sampler().step(step))][:56]  # as without the others


def test_a_step_of_a_mixture_needs_none_before_it() -> None:
    mixed = {"sizes": [10, 4, 7], "weights": [5, 0.25, 1], "global_batch_size": 8}
    forward, run = [sampler(**mixed).step(step) for step in range(20)], sampler(**mixed)
    assert [run.step(step) for step in (19, 0, 7, 8)] == [forward[19], forward[0], forward[7], forward[8]]
    assert [place for rank in range(4) for place in run.share(19, rank=rank, size=4)] == forward[19]


def test_a_substitute_is_of_the_same_source_and_belongs_to_its_place() -> None:
    run = sampler(sizes=[10, 4], weights=[0.7, 0.3])
    for place in run.step(0):
        found = [run.substitute(place, attempt) for attempt in range(50)]
        assert found == [sampler(sizes=[10, 4], weights=[0.7, 0.3]).substitute(place, attempt) for attempt in range(50)]
        assert {each.position for each in found} == {place.position}
        assert {each.index for each in found} == (set(range(10)) if place.index < 10 else set(range(10, 14)))
    assert len({tuple(run.substitute(place, attempt).index for attempt in range(50)) for place in run.step(0)}) == 4
