"""The toy plugin is on the path, and so is what installs plugins for a test; `registry` knows the toys and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "toys"))

from toy_plugin.registered import toy_registry

from loongforge_core.registry.registry import Registry


@pytest.fixture
def registry() -> Registry:
    return toy_registry()
