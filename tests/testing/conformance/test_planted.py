"""The judge is judged: every planted bug is caught by the check that is named for it, and a component without a bug by none."""

from __future__ import annotations

import pytest
from planted import backbone, encoder, projector, recipe

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.conformance import CHECKS, Check, Result, judge
from loongforge_core.testing.conformance.catalogue import check_named

REFERENCE = {"reference": "planted.TwoLinearReference"}

PLANTED: dict[str, tuple[str, ComponentSpec]] = {
    # ---- encoders
    "a model that is not there": ("specification", encoder("NoSuchEncoder")),
    "a reference that is not there": ("specification", encoder("RowEncoder", reference="transformers.SiglipVisonModel")),
    "a projector in an encoder's place": ("specification", encoder("TwoLinear")),
    "a config in a module that imports torch": ("light_import", encoder("RowEncoder", config="planted:HeavyConfig")),
    "a config that takes any key": ("schema", encoder("RowEncoder", config="planted_configs:TakesAnything")),
    "no distribution for a parameter": ("initial_values", encoder("NamesNoDistribution")),
    "initial values from numpy's own random numbers": ("initial_values", encoder("DrawsInitialValues")),
    "errors of numpy for a truncated file": ("processor", encoder("RowEncoder", processor="planted_configs:LetsErrorsThrough")),
    "no processor": ("processor", encoder("RowEncoder", processor="")),
    "token counts off by one for odd sizes": ("token_counts", encoder("RowEncoder", config="planted_configs:RoundsDown")),
    "positions by batch index": ("order", encoder("PositionsByBatchIndex")),
    "a mean over padding": ("independence", encoder("MeanOverPadding")),
    "features cut at the wrong item": ("independence", encoder("CutAtTheWrongItem")),
    "attention across items": ("leak", encoder("AttendsAcrossItems")),
    "a forgotten class token": ("gradients", encoder("ForgottenClassToken")),
    "a key that is detached": ("derivatives", encoder("DetachesTheAttention")),
    "an in-place edit of the input": ("inputs_unchanged", encoder("NormalisesItsInput")),
    "batch statistics": ("batch_invariance", encoder("NormalisesTheBatch")),
    "a running mean of what was seen": ("absent_modality", encoder("RemembersItems")),
    "a table that stays in float32": ("dtype", encoder("StaysInFloat32")),
    "a counter in what is recomputed": ("recomputation", encoder("CountsItsPasses")),
    "dropout at evaluation": ("determinism", encoder("DropsOutInEvaluation")),
    "an unregistered buffer": ("state", encoder("UnregisteredTable")),
    "features remembered by size in the module's file": ("leak", encoder("RemembersBySize")),
    "a seed in the constructor": ("state", encoder("SeedsTorch")),
    "a counter that is not stored": ("checkpoint", encoder("CountsItsPasses")),
    "the size of Megatron's global group": ("global_state", encoder("AsksTheGlobalState")),
    "the number of all processes": ("global_state", encoder("AddsUpOverEverybody")),
    "features that depend on the rank": ("layout_replicate", encoder("AddsItsRank")),
    "numbers that depend on the data-parallel rank": ("layout_data", encoder("AddsItsRank")),
    "a split layer whose parts are not added up": (
        "layout_tensor",
        encoder("SplitAndNotGathered", config="planted_configs:SaysItCanBeSplit"),
    ),
    # ---- projectors
    "an item's last feature paired with the next item's first": ("independence", projector("HalvesAcrossItems", "HalvesConfig")),
    "the encoder's grids instead of the projector's": ("token_counts", projector("SaysTheEncodersGrids", "HalvesConfig")),
    "one level for all": ("levels", projector("OneLevelForAll", "PlainProjectorConfig")),
    "two swapped tensors in the table": ("hf_parity", projector("TwoLinear", weights="planted:swapped_table", **REFERENCE)),
    "a rule that reads what it does not write": ("hf_round_trip", projector("TwoLinear", weights="planted:one_way_table")),
    # ---- language models
    "a mean over the sequence": ("causality", backbone("LooksAhead")),
    "a mean over samples": ("leak", backbone("SharesAmongSamples")),
    "labels shifted twice": ("loss", backbone("ShiftsLabels")),
    "borders of samples in a row forgotten": ("packing_invariance", backbone("IgnoresPacking")),
    "a level forgotten": ("levels", backbone("ForgetsLevels")),
    "once per stage instead of once": ("layout_pipeline", backbone("ScalesEveryStage")),
    # ---- recipes
    "a modality that cannot be written": ("markup", recipe("ForgetsAModality")),
    "positions from one on": ("positions", recipe("CountsFromOne")),
}

CLEAN = (
    encoder("RowEncoder"),
    projector("Halves", "HalvesConfig"),
    backbone("Decoder"),
    recipe("MarksConfig"),
)


def results(spec: ComponentSpec, checks: list[Check]) -> list[Result]:
    registry = Registry()
    registry.register(spec)
    return list(judge(spec, registry, checks))


@pytest.mark.parametrize("bug", PLANTED)
def test_the_check_named_for_a_bug_catches_it(bug: str) -> None:
    name, spec = PLANTED[bug]
    (result,) = results(spec, [check_named(name)])
    assert result.status == "finding", result
    assert not result.seen[0].startswith("it raises"), result


def test_every_check_has_caught_something() -> None:
    assert {name for name, _ in PLANTED.values()} == {check.name for check in CHECKS}


def test_a_right_table_has_no_finding() -> None:
    checks = [check_named("hf_round_trip"), check_named("hf_parity")]
    found = results(projector("TwoLinear", weights="planted:right_table", **REFERENCE), checks)
    assert [result.status for result in found] == ["ok", "ok"], found


@pytest.mark.parametrize("spec", CLEAN, ids=lambda spec: spec.name)
def test_a_component_without_a_bug_has_no_finding(spec: ComponentSpec) -> None:
    found = results(spec, list(CHECKS))
    assert not [str(result) for result in found if result.status == "finding"]
    assert sum(result.status == "ok" for result in found) > len(found) / 2
