"""The judge finds mistakes that it was not written for, and accuses no component that has none.

They were planted blind: by somebody who had not read the judge, from the names of its checks and what each asks. The table and the checks
in it were complete before the judge was run once. Six of ten were caught at first try by the check named for them, one more by another
check only, and three not at all: `first_try` says which, in the judge's own words, shortened, whatever it says today.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from loongforge_core.component import ComponentSpec, Kind
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.conformance import Result, judge
from loongforge_core.testing.conformance.catalogue import check_named

MODELS = "tests.testing.conformance_blind.planted"
CONFIGS = f"{MODELS}_configs"


@dataclass(frozen=True)
class Planted:
    """A mistake, the same component without it, and the one check that must name it."""

    spec: ComponentSpec
    healthy: ComponentSpec
    check: str
    first_try: str
    """What the judge said when it was asked for the first time: `caught` by that check, with its first sentence, or `missed`."""


def part(kind: Kind, name: str, *, config: str, model: str, processor: str = "StripProcessor") -> ComponentSpec:
    encodes: dict[str, Any] = {"modalities": ("strip",), "processor": f"{CONFIGS}:{processor}"} if kind == "encoder" else {}
    return ComponentSpec(kind=kind, name=name, summary="for a test", config=f"{CONFIGS}:{config}", model=f"{MODELS}:{model}", **encodes)


PLANTED: dict[str, Planted] = {
    "noise seeded by the hash of the file's name": Planted(
        part("encoder", "hashed_dither", config="StripConfig", model="StripEncoder", processor="HashedDitherProcessor"),
        part("encoder", "dither", config="StripConfig", model="StripEncoder", processor="DitherProcessor"),
        "processor",
        first_try="missed, by every check",
    ),
    "rows shorter than a window": Planted(
        part("encoder", "short_windows", config="ShortWindowsConfig", model="WindowsEncoder"),
        part("encoder", "windows", config="WindowsConfig", model="WindowsEncoder"),
        "token_counts",
        first_try="caught: strip of size (5,): features are [1, 16], its config says [0, 16]",
    ),
    "sorted by size, and back by the same order": Planted(
        part("encoder", "sorted_again", config="StripConfig", model="SortedAgainEncoder"),
        part("encoder", "sorted", config="StripConfig", model="SortedEncoder"),
        "order",
        first_try="caught: its features differ by 1.6 where it is number 1 of 4 (reversed) instead of number 4",
    ),
    "positions of each length kept in evaluation": Planted(
        part("encoder", "remembering", config="StripConfig", model="RememberingEncoder"),
        part("encoder", "strip", config="StripConfig", model="StripEncoder"),
        "state",
        first_try="missed; only derivatives had a finding: the output changes by 0, and its gradient says -22.98",
    ),
    "a lambda in a loop of recomputed layers": Planted(
        part("encoder", "late", config="StripConfig", model="LateEncoder"),
        part("encoder", "recomputing", config="StripConfig", model="RecomputingEncoder"),
        "recomputation",
        first_try="caught: with `train.recompute: full`, gradients of position_embedding.weight differ by 0.79",
    ),
    "a norm over this rank's columns": Planted(
        part("encoder", "local_norm", config="SplitConfig", model="LocalNormEncoder"),
        part("encoder", "split", config="SplitConfig", model="SplitEncoder"),
        "layout_tensor",
        first_try="caught: loss of step 1 differ from one process's by 0.00425, allowed 1e-05",
    ),
    "another activation's derivative": Planted(
        part("projector", "quick_backward", config="ThriftyConfig", model="QuickBackwardProjector"),
        part("projector", "thrifty", config="ThriftyConfig", model="ThriftyProjector"),
        "derivatives",
        first_try="missed, by every check",
    ),
    "levels merged along rows": Planted(
        part("projector", "row_levels", config="BlocksConfig", model="RowLevelsProjector"),
        part("projector", "blocks", config="BlocksConfig", model="BlocksProjector"),
        "levels",
        first_try="missed, by every check",
    ),
    "logits capped behind the vocabulary's mask": Planted(
        part("backbone", "capped_padding", config="CappedConfig", model="CappedPaddingDecoder"),
        part("backbone", "capped", config="CappedConfig", model="CappedDecoder"),
        "loss",
        first_try="caught: rows 265 to 269, which only pad the vocabulary, have logits that take part in the loss",
    ),
    "layers numbered from the first of the stage": Planted(
        part("backbone", "numbered_by_stage", config="ScaledNormsConfig", model="NumberedByStageDecoder"),
        part("backbone", "scaled_norms", config="ScaledNormsConfig", model="ScaledNormsDecoder"),
        "layout_pipeline",
        first_try="caught: loss of step 2 differ from one process's by 0.00143, allowed 1e-05",
    ),
}


def judged(spec: ComponentSpec, check: str) -> Result:
    registry = Registry.discover()
    registry.register(spec)
    (result,) = judge(spec, registry, [check_named(check)])
    return result


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_mistake_is_found_by_the_check_that_its_author_expected(mistake: str) -> None:
    result = judged(PLANTED[mistake].spec, PLANTED[mistake].check)
    assert result.status == "finding", result


@pytest.mark.parametrize("mistake", PLANTED)
def test_the_same_component_without_the_mistake_has_no_finding(mistake: str) -> None:
    result = judged(PLANTED[mistake].healthy, PLANTED[mistake].check)
    assert result.status == "ok", result
