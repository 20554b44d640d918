"""Plugins found through entry points: real dist-info folders on the path, sound ones and broken ones side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from installed import announcing

from loongforge_core.errors import PluginError
from loongforge_core.registry.registry import Registry

Install = Callable[..., Path]

SOUND, LOST = announcing("found_eye"), announcing("lost_eye")

# What a plugin may do, with its source, and what is said of it; test_broken_plugins.py has what a user meets first.
BROKEN = {
    "missing dependency": (
        "import no_such_package.part",
        "No module named 'no_such_package'; install what it needs: pip install no_such_package",
    ),
    "missing part of a dependency": ("import json.no_such_part", "json is installed, but without this part"),
    "missing part of its own": ("import broken_plugin.part", "a part of broken_plugin itself: pip install --force-reinstall broken_plugin"),
    "raises at import": ("raise RuntimeError('no licence')", "no licence"),
    "aborts": ("class Abort(BaseException): pass\nraise Abort('no licence')", "Abort: no licence"),
    "raises what cannot be shown": (
        "class Mute(Exception):\n    def __str__(self):\n        raise OSError\nraise Mute",
        "Mute: (its own words raise OSError)",
    ),
    "says more than a line": ("raise ValueError('a\\nb' + 1000 * 'c')", "ValueError: a bccc"),
    "returns text": (LOST.replace("return [", "return 'abc' #"), "expected a list"),
    "returns other things": (LOST.replace("return [", "return [5] #"), "expected ComponentSpec"),
    "returns a mapping": (LOST.replace("return [", "return {'x': 5} #"), "loongforge_components() gave {'x': 5}, expected a list"),
    "returns a class": (LOST.replace("return [", "return [ComponentSpec] #"), "expected ComponentSpec"),
    "yields and raises": (LOST.replace("return [", "yield 1 / 0 #"), "ZeroDivisionError"),
    "summary of another type": (LOST.replace('summary=""', "summary=None"), "summary of 'lost_eye' is None, expected text"),
    "modalities as text": (LOST.replace('("image",)', '"image"'), "modalities of 'lost_eye' is 'image', expected a tuple of names"),
    "API version as text": (
        LOST.replace('summary=""', 'summary="", api_version="1"'),
        "api_version of 'lost_eye' is '1', expected a number",
    ),
    "unknown kind": (LOST.replace('"encoder"', '"decoder"'), "kind 'decoder'"),
    "malformed target": (LOST.replace("config:Eye", "config.Eye"), "package.module:attribute"),
    "no modality": (LOST.replace('("image",)', "()"), "no modality"),
    "misspelled hook": (LOST.replace("loongforge_components", "loongforge_component"), "loongforge_component"),
    "no hook": ("x = 1", "implements no hook"),
    "config package": (LOST + "\n@hookimpl\ndef loongforge_config_paths():\n    return ['no.such.package']\n", "No module named 'no'"),
}


def test_an_installed_plugin_is_found_with_its_distribution(install: Install) -> None:
    install("sound_plugin", SOUND)
    registry = Registry.discover()
    spec = registry.component("encoder", "found_eye")
    assert str(registry.origin(spec)) == "sound_plugin 1.2"
    assert "sound_plugin 1.2" in registry.fingerprint().split("\n")
    assert registry.load(spec, "config").__name__ == "EyeConfig"


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_disturbs_nobody(install: Install, case: str) -> None:
    source, reason = BROKEN[case]
    install("broken_plugin", source)
    install("sound_plugin", SOUND)
    registry = Registry.discover()
    assert registry.component("encoder", "found_eye")
    (broken,) = [plugin for plugin in registry.broken if plugin.distribution == "broken_plugin"]
    assert broken.version == "1.2"
    assert reason in broken.reason
    assert "\n" not in broken.reason and len(broken.reason) < 500
    with pytest.raises(PluginError, match=r"broken_plugin 1\.2 is broken") as caught:
        registry.component("encoder", "lost_eye")
    assert caught.value.__cause__ is broken.exception


def test_the_users_interrupt_is_not_a_broken_plugin(install: Install) -> None:
    install("slow_plugin", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry.discover()


def test_a_plugin_refused_for_its_version_is_not_blamed_for_other_names(install: Install) -> None:
    install("broken_plugin", LOST.replace('summary=""', 'summary="", api_version=99'))
    registry = Registry.discover()
    with pytest.raises(PluginError) as caught:
        registry.component("encoder", "no_such_eye")
    assert "broken_plugin" not in str(caught.value)


def test_a_name_that_two_distributions_publish_cannot_be_selected(install: Install) -> None:
    install("first_plugin", SOUND)
    install("second_plugin", SOUND, version="7")
    with pytest.raises(PluginError, match=r"first_plugin 1\.2 and second_plugin 7"):
        Registry.discover().component("encoder", "found_eye")


def test_resources_are_found_in_packages_of_plugins_only(install: Install, tmp_path: Path) -> None:
    install("sound_plugin", SOUND)
    (tmp_path / "sound_plugin.py").unlink()
    package = tmp_path / "sound_plugin"
    package.mkdir()
    (package / "__init__.py").write_text(SOUND)
    (package / "words.txt").write_text("hello")
    registry = Registry.discover()
    assert registry.resource("pkg://sound_plugin/words.txt").read_text() == "hello"
    for url, reason in {"pkg://json/tool.py": "no installed plugin", "pkg://sound_plugin/../x": "leaves its package"}.items():
        with pytest.raises(PluginError, match=reason):
            registry.resource(url)
