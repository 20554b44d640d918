"""Plugins found through entry points: real dist-info folders on the path, sound ones and broken ones side by side."""

from __future__ import annotations

from pathlib import Path

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

# What a plugin may do, with its source, and what is said of it.
BROKEN = {
    "import error": ("from json import nothing_of_this_name", "ImportError: cannot import name 'nothing_of_this_name'"),
    "missing dependency": (
        "import no_such_package.part",
        "No module named 'no_such_package'; install what it needs: pip install no_such_package",
    ),
    "missing part of a dependency": ("import json.no_such_part", "json is installed, but without this part"),
    "missing part of its own": ("import broken_plugin.part", "a part of broken_plugin itself: pip install --force-reinstall broken_plugin"),
    "raises at import": ("raise RuntimeError('no licence')", "no licence"),
    "syntax error": ("def (", "SyntaxError"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "aborts": ("class Abort(BaseException): pass\nraise Abort('no licence')", "Abort: no licence"),
    "raises what cannot be shown": (
        "class Mute(Exception):\n    def __str__(self):\n        raise OSError\nraise Mute",
        "Mute: (its own words raise OSError)",
    ),
    "says more than a line": ("raise ValueError('a\\nb' + 1000 * 'c')", "ValueError: a bccc"),
    "raises in a hook": (SOUND.replace("return [", "raise KeyError('lost') #"), "KeyError: 'lost'"),
    "returns nonsense": (SOUND.replace("return [", "return 5 #"), "expected a list"),
    "returns text": (SOUND.replace("return [", "return 'abc' #"), "expected a list"),
    "returns other things": (SOUND.replace("return [", "return [5] #"), "expected ComponentSpec"),
    "returns a mapping": (SOUND.replace("return [", "return {'x': 5} #"), "loongforge_components() gave {'x': 5}, expected a list"),
    "returns a class": (SOUND.replace("return [", "return [ComponentSpec] #"), "expected ComponentSpec"),
    "yields and raises": (SOUND.replace("return [", "yield 1 / 0 #"), "ZeroDivisionError"),
    "summary of another type": (SOUND.replace('summary=""', "summary=None"), "summary of 'lost_eye' is None, expected text"),
    "modalities as text": (SOUND.replace('("image",)', '"image"'), "modalities of 'lost_eye' is 'image', expected a tuple of names"),
    "API version as text": (
        SOUND.replace('summary=""', 'summary="", api_version="1"'),
        "api_version of 'lost_eye' is '1', expected a number",
    ),
    "unknown kind": (SOUND.replace('"encoder"', '"decoder"'), "kind 'decoder'"),
    "malformed target": (SOUND.replace("config:Eye", "config.Eye"), "package.module:attribute"),
    "no modality": (SOUND.replace('("image",)', "()"), "no modality"),
    "misspelled hook": (SOUND.replace("loongforge_components", "loongforge_component"), "loongforge_component"),
    "no hook": ("x = 1", "implements no hook"),
    "API version": (
        SOUND.replace('summary=""', 'summary="", api_version=99'),
        "API version 99, this loongforge_core supports 1: upgrade loongforge_core",
    ),
    "config package": (SOUND + "\n@hookimpl\ndef loongforge_config_paths():\n    return ['no.such.package']\n", "No module named 'no'"),
}


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
    assert "\n" not in broken.reason and len(broken.reason) < 500
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
