"""`registry` knows the toys and nothing else."""

from __future__ import annotations

import pytest
from toy_plugin.registered import toy_registry

from loongforge_core.registry.registry import Registry


@pytest.fixture
def registry() -> Registry:
    return toy_registry()
