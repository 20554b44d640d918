"""Puts the toy plugin on the path, and a registry that knows it into the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOYS = str(Path(__file__).parents[1] / "toys")
if TOYS not in sys.path:
    sys.path.insert(0, TOYS)

from toy_plugin.registered import toy_registry  # noqa: E402 (after the path)

from loongforge_core.registry.registry import Registry  # noqa: E402


@pytest.fixture
def registry() -> Registry:
    return toy_registry()
