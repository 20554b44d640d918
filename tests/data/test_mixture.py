"""Sources mixed by weight: which one has a place follows from its number alone, and shares are kept from the start."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import pytest

from loongforge_core.data.mixture import Mixture, shares_of


def test_shares_are_as_exact_as_they_are_written() -> None:
    assert shares_of([0.7, 0.3]) == shares_of([70, 30]) == shares_of([7e-9, 3e-9]) == (Fraction(7, 10), Fraction(3, 10))


def test_one_source_has_every_place() -> None:
    assert [Mixture([3.5])[place] for place in (0, 1, 10**12)] == [(0, 0), (0, 1), (0, 10**12)]


def test_two_sources_alternate_as_evenly_as_they_can() -> None:
    mixture = Mixture([0.75, 0.25])
    taken = [mixture[place][0] for place in range(8)]
    assert taken == [0, 1, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("seed", range(6))
def test_no_source_is_ever_two_samples_away_from_its_share(seed: int) -> None:
    choose = random.Random(seed)
    weights = [choose.choice([choose.random(), 1, 13, choose.random() ** 5 + 1e-3]) for _ in range(2 + seed)]
    mixture, shares, counts = Mixture(weights), shares_of(weights), Counter[int]()
    for place in range(2000):
        source, turn = mixture[place]
        assert turn == counts[source]  # each source is gone through without a gap
        counts[source] += 1
        assert all(abs(counts[each] - float(share) * (place + 1)) < 2 for each, share in enumerate(shares))


def test_a_place_is_found_without_those_before_it() -> None:
    mixture, far = Mixture([1, 2, 4]), 7 * 10**15
    assert [mixture[far + place][0] for place in range(14)] == [mixture[place][0] for place in range(14)]
    assert {mixture[far + place][1] - mixture[place][1] for place in range(14)} == {10**15, 2 * 10**15, 4 * 10**15}
