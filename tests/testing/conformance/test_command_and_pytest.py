"""The judge on the command line and as pytest: names, exit status, what is said of a finding and of what was not checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from planted import encoder

from loongforge_core.cli.main import main
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.conformance import CHECKS, Result, as_pytest, components_of, plugin_tests
from loongforge_core.testing.conformance.catalogue import check_named

SENSOR = "loongforge-sensor"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution `planted` with one right encoder and one that forgets its class token."""

    def discover(without: Any = ()) -> Registry:
        registry = Registry()
        for model in ("RowEncoder", "ForgottenClassToken"):
            registry.register(encoder(model), distribution="planted")
        return registry

    monkeypatch.setattr(Registry, "discover", discover)


def test_a_plugin_without_a_finding_ends_in_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-plugin", "Loongforge_Sensor", "--check", "schema", "--check", "order", "--check", "hf_parity"]) == 0
    said = capsys.readouterr().out
    assert "sensor: hf_parity: its specification names no `reference`" in said
    assert "2 ok, 0 with findings, 1 not applicable" in said


def test_a_finding_ends_in_1_and_says_what_it_means_and_how_to_mend_it(planted: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-plugin", "planted", "--check", "gradients"]) == 1
    said, check = capsys.readouterr().out, check_named("gradients")
    assert "no gradient reaches class_token" in said and check.means in said and check.mend in said
    assert "1 ok, 1 with findings, 0 not applicable" in said


def test_a_program_reads_json(planted: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-plugin", "planted", "--component", "forgottenclasstoken", "--check", "gradients", "--json"]) == 1
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["component"], result["check"], result["status"]) == ("forgottenclasstoken", "gradients", "finding")
    assert "class_token" in result["seen"][0] and result["mend"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["loongforge_senser"], "did you mean 'loongforge_sensor'?"),
        ([SENSOR, "--component", "senser"], "did you mean 'sensor'?"),
        ([SENSOR, "--check", "ordre"], "did you mean 'order'?"),
    ],
)
def test_a_wrong_name_ends_in_2_with_the_nearest(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-plugin", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_every_check_is_a_test_of_its_own() -> None:
    (mark,) = plugin_tests(SENSOR).pytestmark  # type: ignore[attr-defined]
    expected = [f"encoder-sensor-{check.name}" for check in CHECKS if "encoder" in check.kinds]
    assert mark.kwargs["ids"] == expected and len(expected) > 20


def test_as_pytest_a_finding_fails_and_what_cannot_be_checked_is_skipped_with_its_reason(planted: None) -> None:
    test_plugin = plugin_tests("planted")
    right, wrong = (encoder(model) for model in ("RowEncoder", "ForgottenClassToken"))
    test_plugin(right, check_named("gradients"))
    with pytest.raises(pytest.fail.Exception, match="no gradient reaches class_token"):
        test_plugin(wrong, check_named("gradients"))
    with pytest.raises(pytest.skip.Exception, match="names no `reference`"):
        test_plugin(right, check_named("hf_parity"))


def test_where_there_is_an_accelerator_the_command_judges_which_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(as_pytest, "has_accelerator", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    test_plugin = plugin_tests("loongforge_models")
    (recipe, *_) = components_of("loongforge_models", Registry.discover())
    test_plugin(recipe, check_named("markup"))
    rows = [Result(recipe, check_named("order"), "finding", ("one", "another")), Result(recipe, check_named("hf_parity"), "ok")]
    assert [Result.from_row(json.loads(json.dumps(row.to_row())), recipe) for row in rows] == rows


def test_what_the_command_says_of_its_end_is_passed_on(planted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(as_pytest, "has_accelerator", lambda: True)
    with pytest.raises(RuntimeError, match="no installed plugin 'planted'"):  # which is registered in this process only
        plugin_tests("planted")(encoder("RowEncoder"), check_named("gradients"))


def test_the_command_hides_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert main(["check-plugin", SENSOR, "--check", "schema"]) == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_collecting_imports_no_torch() -> None:
    collect = f"from loongforge_core.testing.conformance import plugin_tests; plugin_tests({SENSOR!r})"
    subprocess.run([sys.executable, "-c", f"{collect}; import sys; assert 'torch' not in sys.modules"], check=True)
