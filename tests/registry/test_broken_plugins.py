"""Broken and ill-behaved plugins as a user meets them: `list` says why, others work, and one that is needed is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from installed import announcing

from loongforge_core.cli.main import main
from loongforge_core.errors import PluginError
from loongforge_core.registry.registry import Registry

SOUND, LOST = announcing("found_eye"), announcing("lost_eye")


@dataclass(frozen=True)
class Broken:
    """A plugin's source, what `list` says of it, and what in its own traceback shows where it went wrong."""

    source: str
    reason: str
    trace: str
    entry_point: str = "broken_plugin"
    requires: Sequence[str] = ()


BROKEN: Mapping[str, Broken] = {
    "import error": Broken("from json import no_such_name", "ImportError: cannot import name 'no_such_name'", "<module>"),
    "syntax error": Broken("def (", "SyntaxError: invalid syntax (broken_plugin.py, line 1)", "def ("),
    "missing dependency": Broken(
        "import no_such_module",
        "No module named 'no_such_module'; install what it needs: pip install 'no-such-package>=2'",
        "import no_such_module",
        requires=["no-such-package>=2", "pluggy", "no-such-extra; extra == 'all'"],
    ),
    "wrong API version": Broken(
        LOST.replace('summary=""', 'summary="", api_version=2'),
        "'lost_eye' is written for API version 2, this loongforge_core supports 1: upgrade loongforge_core",
        "UnsupportedVersion",
    ),
    "a hook that raises": Broken(LOST.replace("return [", "raise KeyError('lost') #"), "KeyError: 'lost'", "raise KeyError('lost')"),
    "a hook that returns nonsense": Broken(
        LOST.replace("return [", "return 5 #"), "TypeError: loongforge_components() gave 5, expected a list", "gave 5"
    ),
    "an entry point to a missing attribute": Broken(
        LOST, "AttributeError: module 'broken_plugin' has no attribute 'plugin'", "has no attribute 'plugin'", "broken_plugin:plugin"
    ),
    "an entry point to nothing": Broken(
        LOST, "ValueError: the entry point 'not a module' is no 'package.module'", "not a module", "not a module"
    ),
    "one that calls sys.exit": Broken("import sys\nsys.exit('no licence')", "SystemExit: no licence", "sys.exit('no licence')"),
}


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and distribution, what is installed here; the plugins of the repository are left aside."""
    assert main(["list", "--json", *options]) == 0
    rows = json.loads(capsys.readouterr().out)
    return {(row["kind"], row["distribution"]): row for row in rows if not row["distribution"].startswith("loongforge_")}


@pytest.mark.parametrize("case", BROKEN)
def test_it_is_listed_with_its_reason_and_disturbs_nobody(
    install: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    broken = BROKEN[case]
    install("broken_plugin", broken.source, entry_point=broken.entry_point, requires=broken.requires)
    install("sound_plugin", SOUND)
    rows = listed(capsys)
    assert rows["encoder", "sound_plugin"]["name"] == "found_eye"
    assert rows["broken", "broken_plugin"]["version"] == "1.2"
    assert broken.reason in rows["broken", "broken_plugin"]["reason"]
    assert main(["list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("broken: broken_plugin 1.2 (broken_plugin): ")]
    assert broken.reason in line
    (tmp_path / "sound.yaml").write_text("model: {image_encoder: {type: found_eye}}")
    assert main(["validate", str(tmp_path / "sound.yaml")]) == 0


@pytest.mark.parametrize("case", BROKEN)
def test_where_it_is_needed_its_own_traceback_is_the_cause(
    install: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    broken = BROKEN[case]
    install("broken_plugin", broken.source, entry_point=broken.entry_point, requires=broken.requires)
    (tmp_path / "lost.yaml").write_text("model: {image_encoder: {type: lost_eye}}")
    assert main(["validate", str(tmp_path / "lost.yaml")]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "no encoder 'lost_eye' is installed" in said and "broken_plugin 1.2 is broken: " in said and broken.reason in said
    assert main(["validate", str(tmp_path / "lost.yaml"), "--debug"]) == 2
    said = capsys.readouterr().err
    cause, _, _ = said.partition("direct cause of the following exception")
    assert "Traceback" in cause and broken.trace in cause


def test_the_causes_of_two_that_could_have_it_are_both_shown(install: Callable[..., Path]) -> None:
    install("first_plugin", "1 / 0")
    install("second_plugin", "import no_such_module")
    with pytest.raises(PluginError, match=r"first_plugin 1\.2 is broken.*second_plugin 1\.2 is broken") as caught:
        Registry.discover().component("encoder", "lost_eye")
    assert isinstance(caught.value.__cause__, BaseExceptionGroup)
    assert {type(each) for each in caught.value.__cause__.exceptions} >= {ZeroDivisionError, ModuleNotFoundError}


def test_a_part_that_needs_what_is_not_installed_names_it(install: Callable[..., Path], tmp_path: Path) -> None:
    install("sound_plugin", SOUND.replace("toy_plugin.config", "sound_config"), requires=["no-such-package"])
    (tmp_path / "sound_config.py").write_text("import no_such_module")
    registry = Registry.discover()
    with pytest.raises(PluginError, match="'no_such_module'; install what it needs: pip install no-such-package"):
        registry.load(registry.component("encoder", "found_eye"), "config")


# ---- names


def test_a_name_announced_twice_by_one_plugin_is_refused_when_selected(install: Callable[..., Path]) -> None:
    install("twice_plugin", SOUND.replace("return [", "one = [").rstrip() + "\n    return [*one, *one]\n")
    with pytest.raises(PluginError, match=r"encoder 'found_eye' is announced twice by twice_plugin 1\.2"):
        Registry.discover().component("encoder", "found_eye")


def test_a_module_named_by_two_entry_points_is_one_plugin(install: Callable[..., Path]) -> None:
    info = install("sound_plugin", SOUND)
    (info / "entry_points.txt").write_text("[loongforge]\na = sound_plugin\nb = sound_plugin\n")
    assert Registry.discover().component("encoder", "found_eye")


# ---- metadata


@pytest.mark.parametrize(
    ("file", "content", "reasons"),
    [
        ("entry_points.txt", b"[loongforge]\nthis is no entry point\n", ["its entry_points.txt cannot be read"]),
        ("entry_points.txt", b"[loongforge]\nx = y\n\xff\xfe\n", []),  # nobody can tell whose group that is
        ("METADATA", b"", ["No module named 'nowhere'"]),
        ("METADATA", b"\xff\xfe", ["No module named 'nowhere'"]),
    ],
)
def test_damaged_metadata_of_one_distribution_hides_no_other(
    install: Callable[..., Path], file: str, content: bytes, reasons: Sequence[str]
) -> None:
    (install("broken_plugin", LOST, entry_point="nowhere") / file).write_bytes(content)
    install("sound_plugin", SOUND)
    registry = Registry.discover()
    assert registry.component("encoder", "found_eye")
    broken = [plugin.reason for plugin in registry.broken if plugin.distribution in ("broken_plugin", "nowhere")]
    assert all(reason in found for reason, found in zip(reasons, broken, strict=True))


# ---- YAML


def test_a_damaged_file_of_a_plugin_spoils_no_other(
    install: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    install("sound_plugin", SOUND + "\n@hookimpl\ndef loongforge_config_paths():\n    return ['sound_configs']\n")
    configs = tmp_path / "sound_configs"
    configs.mkdir()
    (configs / "__init__.py").touch()
    (configs / "good.yaml").write_text("# Sound\nmodel: {image_encoder: {type: found_eye}}")
    (configs / "bytes.yaml").write_bytes(b"\xff\xfe")
    (configs / "lost.yaml").symlink_to("nowhere")
    (configs / "folder.yaml").mkdir()
    assert main(["list", "--json"]) == 0
    rows = {row["name"]: row["summary"] for row in json.loads(capsys.readouterr().out) if row["kind"] == "composition"}
    assert rows["good"] == "Sound"
    assert all(rows[name].startswith("cannot be read: ") for name in ("bytes", "lost", "folder"))
    assert main(["validate", "good"]) == 0
    assert main(["validate", "goot"]) == 2
    assert "did you mean 'good'?" in capsys.readouterr().err
    assert main(["copy-configs", str(tmp_path / "copies")]) == 0
    assert (tmp_path / "copies" / "good.yaml").read_text() == (configs / "good.yaml").read_text()
    assert f"{configs / 'lost.yaml'} cannot be read" in caplog.text and f"{configs / 'folder.yaml'} cannot be read" in caplog.text


# ---- what works, and should not be done


def test_what_a_plugin_prints_is_no_part_of_a_result(install: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    install("loud_plugin", "print('{')\nimport sys\nsys.stdout.buffer.write(b'bytes')\n" + SOUND)
    assert main(["list", "--json"]) == 0
    shown = capfd.readouterr()
    (warning,) = [row for row in json.loads(shown.out) if row["distribution"] == "loud_plugin" and row["kind"] == "warning"]
    assert warning["reason"] == "prints when it is loaded, which is sent to standard error: '{ bytes'"
    assert shown.err == "{\nbytes"
    assert Registry.discover().component("encoder", "found_eye"), "it can be used"


def test_what_a_part_prints_is_no_part_of_a_result(
    install: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("sound_plugin", SOUND.replace("toy_plugin.config", "loud_config"))
    (tmp_path / "loud_config.py").write_text("print('loud')\nfrom toy_plugin.config import EyeConfig")
    assert main(["show", "found_eye", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)[0]["name"] == "found_eye"
    assert shown.err == "loud\n"


def test_one_that_imports_torch_is_named(install: Callable[..., Path]) -> None:
    """In a process of its own: here torch is loaded already."""
    install("heavy_plugin", "import torch\n" + SOUND)
    path = os.pathsep.join(filter(None, sys.path))
    program = "import sys\nfrom loongforge_core.cli.main import main\nassert 'torch' not in sys.modules\nsys.exit(main(['list', '--json']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    (warning,) = [row for row in json.loads(done.stdout) if row["kind"] == "warning"]
    assert (warning["distribution"], warning["version"]) == ("heavy_plugin", "1.2")
    assert warning["reason"].startswith("imports torch when it is loaded")


def test_what_it_does_is_a_warning_of_every_composition(
    install: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install("loud_plugin", "print('hello')\n" + SOUND)
    (tmp_path / "sound.yaml").write_text("model: {image_encoder: {type: found_eye}}")
    assert main(["validate", str(tmp_path / "sound.yaml")]) == 0
    assert "loud_plugin 1.2 prints when it is loaded" in caplog.text
