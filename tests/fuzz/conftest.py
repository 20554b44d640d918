"""How many files each test of this folder damages: a sample, or `--fuzz N` of each kind."""

from __future__ import annotations

import pytest

CHUNK = 40
"""Cases of one test, so that processes can share many."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`seeds`: of as many cases as are wanted, each made from its seed alone."""
    if "seeds" in metafunc.fixturenames:
        number = metafunc.config.getoption("fuzz")
        chunks = [range(start, min(start + CHUNK, number)) for start in range(0, number, CHUNK)]
        metafunc.parametrize("seeds", chunks, ids=[f"from {chunk.start}" for chunk in chunks])
