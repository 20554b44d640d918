"""The order of an epoch: every sample once, as good as chance, in no memory however many there are."""

from __future__ import annotations

import numpy as np
import pytest

from loongforge_core.data import order
from loongforge_core.data.order import ComputedOrder, epoch_order


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 10, 97, 1000, 4099])
def test_a_computed_order_has_every_sample_once(size: int) -> None:
    computed = ComputedOrder(size, [0, 3, 1])
    assert sorted(computed[place] for place in range(size)) == list(range(size))


def test_a_drawn_order_is_numpys() -> None:
    """What runs of one data file had from the beginning."""
    drawn = epoch_order(1000, [0, 3, 1])
    assert [drawn[place] for place in range(1000)] == np.random.default_rng([0, 3, 1]).permutation(1000).tolist()


def test_an_order_follows_from_its_words() -> None:
    for size in (1000, order.DRAWN + 1000):
        starts = [[int(epoch_order(size, words)[place]) for place in range(20)] for words in ([0, 3, 1], [0, 3, 1], [0, 3, 2], [0, 4, 1])]
        assert starts[0] == starts[1]
        assert len({tuple(start) for start in starts}) == 3


def test_a_computed_order_is_as_good_as_chance() -> None:
    """Each tenth of the places is spread over each tenth of the samples; neighbours are not neighbours; orders do not resemble."""
    size = 10_000
    one, other = ([computed[place] for place in range(size)] for computed in (ComputedOrder(size, [1]), ComputedOrder(size, [2])))
    counts, _, _ = np.histogram2d(np.arange(size), one, bins=10)
    assert 57 < ((counts - 100) ** 2 / 100).sum() < 112  # chi squared of 81 degrees of freedom, from 2 to 98 %
    for first, second in ((one[:-1], one[1:]), (one, other), (one, range(size))):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.03  # three standard deviations


def test_the_order_of_billions_takes_no_memory() -> None:
    size = 10**11
    computed = epoch_order(size, [0, 1, 0])
    found = [computed[place] for place in (0, 1, size - 1)]
    assert isinstance(computed, ComputedOrder) and len(set(found)) == 3 and all(0 <= sample < size for sample in found)
