"""A run of the digits' model and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from saved_runs import Saved, save

from loongforge_core.config.composition import Composition
from loongforge_core.registry import Registry

Compose = Callable[..., Composition]


@pytest.fixture
def saved(compose: Compose, registry: Registry) -> Saved:
    """After three steps."""
    return save(compose("model.image_encoder.lr=1e-3"), registry)
