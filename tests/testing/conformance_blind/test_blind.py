"""The judge finds mistakes that it was not written for, and accuses no component that has none (`planted.py` tells how they came about)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.conformance import CHECKS, Result, judge
from tests.testing.conformance_blind.planted import EXPECTED, PLANTED

# Checks that have yet to learn to see what is planted for them. Strict: whoever teaches them takes the name out.
STILL_MISSED: tuple[str, ...] = ()


def judged(spec: ComponentSpec, check: str) -> Result:
    registry = Registry.discover()
    registry.register(spec)
    (result,) = judge(spec, registry, [each for each in CHECKS if each.name == check])
    return result


def planted() -> Iterator[object]:
    for mistake, check in EXPECTED:
        reason = f"missed at first try, and still: {PLANTED[mistake].first_try}"
        marks = [pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)] if check in STILL_MISSED else []
        yield pytest.param(mistake, check, id=check, marks=marks)


@pytest.mark.parametrize(("mistake", "check"), planted())
def test_a_mistake_is_found_by_the_check_that_its_author_expected(mistake: str, check: str) -> None:
    result = judged(PLANTED[mistake].spec, check)
    assert result.status == "finding", f"{check} says {result.status} of a component with this mistake: {mistake}"


@pytest.mark.parametrize("mistake", PLANTED)
def test_the_same_component_without_the_mistake_has_no_finding(mistake: str) -> None:
    result = judged(PLANTED[mistake].healthy, PLANTED[mistake].check)
    assert result.status == "ok", "; ".join(result.seen)


def test_what_was_expected_was_not_changed_afterwards() -> None:
    assert [(mistake, case.check) for mistake, case in PLANTED.items()] == EXPECTED
    assert [case.first_try.partition(":")[0] for case in PLANTED.values()].count("caught") == 6
