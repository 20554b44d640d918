"""One process with Megatron's groups, for all tests of layers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from loongforge_core.layers.interfaces import BuildContext
from loongforge_core.parallel.groups import component_groups
from loongforge_core.parallel.launch import single_process


@pytest.fixture(scope="module")
def context() -> Iterator[BuildContext]:
    with single_process():
        yield BuildContext(groups=component_groups())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
