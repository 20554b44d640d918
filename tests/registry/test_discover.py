"""Plugins found through entry points: real dist-info folders on the path, sound ones and broken ones side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from loongforge_core.errors import PluginError
from loongforge_core.registry.registry import Registry

SOUND = """
from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl

@hookimpl
def loongforge_components():
    return [ComponentSpec(kind="encoder", name="NAME", summary="", modalities=("image",), config="toy_plugin.config:EyeConfig")]
"""

BROKEN = {
    "import error": ("import nothing_of_this_name", "ModuleNotFoundError"),
    "raises at import": ("raise RuntimeError('no licence')", "no licence"),
    "syntax error": ("def (", "SyntaxError"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "raises in a hook": (SOUND.replace("return [", "raise KeyError('lost') #"), "KeyError: 'lost'"),
    "returns nonsense": (SOUND.replace("return [", "return 5 #"), "expected a list"),
    "returns text": (SOUND.replace("return [", "return 'abc' #"), "expected a list"),
    "returns other things": (SOUND.replace("return [", "return [5] #"), "expected ComponentSpec"),
    "unknown kind": (SOUND.replace('"encoder"', '"decoder"'), "kind 'decoder'"),
    "malformed target": (SOUND.replace("config:Eye", "config.Eye"), "package.module:attribute"),
    "no modality": (SOUND.replace('("image",)', "()"), "no modality"),
    "misspelled hook": (SOUND.replace("loongforge_components", "loongforge_component"), "loongforge_component"),
    "no hook": ("x = 1", "implements no hook"),
    "API version": (SOUND.replace('summary=""', 'summary="", api_version=99'), "API version 99, this loongforge_core supports 1"),
    "config package": (SOUND + "\n@hookimpl\ndef loongforge_config_paths():\n    return ['no.such.package']\n", "No module named 'no'"),
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a distribution with one module, as pip would lay it out."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(distribution: str, source: str, version: str = "1.2") -> None:
        (tmp_path / f"{distribution}.py").write_text(dedent(source))
        info = tmp_path / f"{distribution}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[loongforge]\n{distribution} = {distribution}\n")
        monkeypatch.delitem(sys.modules, distribution, raising=False)

    return install


def test_an_installed_plugin_is_found_with_its_distribution(install) -> None:
    install("sound_plugin", SOUND.replace("NAME", "found_eye"))
    registry = Registry.discover()
    spec = registry.component("encoder", "found_eye")
    assert str(registry.origin(spec)) == "sound_plugin 1.2"
    assert "sound_plugin 1.2" in registry.fingerprint().split("\n")
    assert registry.load(spec, "config").__name__ == "EyeConfig"


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_disturbs_nobody(install, case: str) -> None:
    source, reason = BROKEN[case]
    install("broken_plugin", source.replace("NAME", "lost_eye"))
    install("sound_plugin", SOUND.replace("NAME", "found_eye"))
    registry = Registry.discover()
    assert registry.component("encoder", "found_eye")
    (broken,) = [plugin for plugin in registry.broken if plugin.distribution == "broken_plugin"]
    assert broken.version == "1.2"
    assert reason in broken.reason
    with pytest.raises(PluginError, match=r"broken_plugin 1\.2 is broken") as caught:
        registry.component("encoder", "lost_eye")
    assert caught.value.__cause__ is broken.exception


def test_the_users_interrupt_is_not_a_broken_plugin(install) -> None:
    install("slow_plugin", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry.discover()


def test_a_plugin_refused_for_its_version_is_not_blamed_for_other_names(install) -> None:
    install("broken_plugin", BROKEN["API version"][0].replace("NAME", "future_eye"))
    registry = Registry.discover()
    with pytest.raises(PluginError) as caught:
        registry.component("encoder", "no_such_eye")
    assert "broken_plugin" not in str(caught.value)


def test_a_name_that_two_distributions_publish_cannot_be_selected(install) -> None:
    install("first_plugin", SOUND.replace("NAME", "common_eye"))
    install("second_plugin", SOUND.replace("NAME", "common_eye"), version="7")
    with pytest.raises(PluginError, match=r"first_plugin 1\.2 and second_plugin 7"):
        Registry.discover().component("encoder", "common_eye")


def test_resources_are_found_in_packages_of_plugins_only(install, tmp_path: Path) -> None:
    install("sound_plugin", SOUND.replace("NAME", "found_eye"))
    (tmp_path / "sound_plugin.py").unlink()
    package = tmp_path / "sound_plugin"
    package.mkdir()
    (package / "__init__.py").write_text(SOUND.replace("NAME", "found_eye"))
    (package / "words.txt").write_text("hello")
    registry = Registry.discover()
    assert registry.resource("pkg://sound_plugin/words.txt").read_text() == "hello"
    for url, reason in {"pkg://json/tool.py": "no installed plugin", "pkg://sound_plugin/../x": "leaves its package"}.items():
        with pytest.raises(PluginError, match=reason):
            registry.resource(url)
