"""`--without DIST`: a run as if a plugin were not installed, and what it says where it is missed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from installed import announcing

from loongforge_core.cli.main import main, whole_parser
from loongforge_core.errors import PluginError
from loongforge_core.registry.registry import Registry

SOUND = announcing("found_eye")
ABSENT = "sound_plugin 1.2 is left out (--without)"


@pytest.mark.parametrize("name", ["sound_plugin", "Sound-Plugin", "SOUND.PLUGIN"])
def test_it_is_as_if_it_were_not_installed(install: Callable[..., Path], name: str) -> None:
    install("sound_plugin", SOUND)
    registry = Registry.discover(without=[name])
    assert [plugin.origin.distribution for plugin in registry.left_out] == ["sound_plugin"]
    with pytest.raises(PluginError, match=r"no encoder 'found_eye' is installed.*; sound_plugin 1\.2 is left out \(--without\)"):
        registry.component("encoder", "found_eye")
    with pytest.raises(PluginError, match=r"in a plugin that was not loaded: sound_plugin 1\.2"):
        registry.resource("pkg://sound_plugin/words.txt")


def test_nothing_of_it_is_imported(install: Callable[..., Path], tmp_path: Path) -> None:
    install("broken_plugin", f"open({str(tmp_path / 'canary')!r}, 'w')\nraise RuntimeError")
    Registry.discover(without=["broken-plugin"])
    assert not (tmp_path / "canary").exists()
    Registry.discover()
    assert (tmp_path / "canary").exists()


def test_an_unknown_name_is_refused_with_the_nearest(install: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    install("sound_plugin", SOUND)
    assert main(["list", "--without", "sound_plugins"]) == 2
    assert capsys.readouterr().err == "error: --without sound_plugins: no plugin of this name is installed; did you mean 'sound_plugin'?\n"


def test_list_shows_what_is_left_out(install: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    install("sound_plugin", SOUND)
    assert main(["list", "--json", "--without", "sound_plugin"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out) if row["distribution"] == "sound_plugin"]
    assert rows == [{"kind": "left_out", "name": "", "distribution": "sound_plugin", "version": "1.2", "reason": "by --without"}]
    assert main(["list", "--without", "sound_plugin"]) == 0
    assert "\nleft out: sound_plugin 1.2: by --without\n" in capsys.readouterr().out


def test_every_command_has_it() -> None:
    (commands,) = [action for action in whole_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert {"list", "show", "validate", "copy-configs", "train", "evaluate"} <= set(commands.choices)
    assert not [name for name, command in commands.choices.items() if "--without" not in command.format_help()]


@pytest.mark.parametrize(
    "command",
    [
        ["show", "digits"],
        ["validate", "digits"],
        ["train", "digits"],
        ["train", "digits", "--nproc", "2"],
        ["evaluate", "digits"],
        ["generate", "digits", "--prompt", "1"],
        ["import-hf", "digits", "--folder", "x", "--output", "y"],
        ["export-hf", "digits", "--output", "y"],
    ],
)
def test_a_composition_that_is_missed_says_why(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--without", "loongforge_models"]) == 2
    assert "is installed" in (said := capsys.readouterr().err)
    assert "; loongforge_models 0.1.0 is left out (--without)" in said


@pytest.mark.parametrize(
    "missed",
    [
        "defaults: [image_encoder@model.image_encoder: no_such_size]",
        "model: {image_encoder: {type: siglip}}",
        "tokenizer: pkg://loongforge_vit/tokenizer",
    ],
)
def test_a_part_that_is_missed_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str], missed: str) -> None:
    (tmp_path / "my.yaml").write_text(missed)
    assert main(["validate", str(tmp_path / "my.yaml"), "--without", "loongforge_vit"]) == 2
    assert "loongforge_vit 0.1.0 is left out (--without)" in capsys.readouterr().err


def test_ranks_that_leave_out_other_plugins_differ(install: Callable[..., Path]) -> None:
    install("sound_plugin", SOUND)
    install("broken_plugin", "1 / 0")
    lines = [
        set(Registry.discover(without=without).fingerprint().splitlines())
        for without in ([], ["sound_plugin"], ["broken_plugin"], ["sound_plugin", "broken_plugin"])
    ]
    assert "sound_plugin 1.2" in lines[0] and ABSENT not in lines[0]
    assert ABSENT in lines[1] and "sound_plugin 1.2" not in lines[1]
    assert len(set(map(frozenset, lines))) == 4
