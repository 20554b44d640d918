"""The public face of the core."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import loongforge_core


def test_public_names_are_sorted_and_exist() -> None:
    assert loongforge_core.__all__ == sorted(loongforge_core.__all__)
    assert set(loongforge_core.__all__) <= set(dir(loongforge_core))
    for name in loongforge_core.__all__:
        assert getattr(loongforge_core, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="OmniModel"):
        loongforge_core.OmniModel  # noqa: B018


def test_the_version_is_the_distributions() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert loongforge_core.__version__ == project["version"]
