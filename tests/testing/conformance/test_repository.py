"""No finding on any component of this repository: a seeded sample of checks here, in which every component and every check is.

`make check-plugins` makes all of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.conformance import CHECKS, Check, components_of, judge

PLUGINS = ("loongforge_vit", "loongforge_audio", "loongforge_projectors", "loongforge_llm", "loongforge_hf", "loongforge_models")
LAYOUTS = 2
"""Checks on ranks; `tests/layouts` has many more."""

SLOW = ("qwen2_5_vl",)
"""Hundreds of windows: others are tried first."""

registry = Registry.discover()

Case = tuple[ComponentSpec, Check]


def sampled() -> list[Case]:
    """In a seeded order, those by which a component or a check is seen for the first time."""
    specs = [spec for plugin in PLUGINS for spec in components_of(plugin, registry)]
    cases = [(spec, check) for spec in specs for check in CHECKS if spec.kind in check.kinds]
    random.Random(9).shuffle(cases)
    cases.sort(key=lambda case: case[0].name in SLOW)
    on_ranks = [case for case in cases if case[1].name.startswith("layout")]
    return [*first_seen([case for case in cases if case not in on_ranks]), *first_seen(on_ranks, lambda case: case[1].name)[:LAYOUTS]]


def first_seen(cases: list[Case], *keys: Callable[[Case], object]) -> list[Case]:
    seen: set[object] = set()
    chosen = []
    for case in cases:
        new = {key(case) for key in keys or (lambda case: case[0], lambda case: (case[0].kind, case[1].name))}
        if new - seen:
            seen |= new
            chosen.append(case)
    return chosen


CASES = sampled()


@pytest.mark.parametrize(("spec", "check"), CASES, ids=[f"{spec.kind}-{spec.name}-{check.name}" for spec, check in CASES])
def test_a_component_of_ours_keeps_its_promises(spec: ComponentSpec, check: Check) -> None:
    (result,) = judge(spec, registry, [check])
    assert result.status != "finding", str(result)
