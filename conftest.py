"""For every test: Megatron runs without an accelerator, and one thread a process, since tests of ranks start several at once."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()


def pytest_configure() -> None:
    """`make test` says in EXPECT_MEGATRON which version each of its passes is for; without it any version will do."""
    import megatron.core

    expected, found = os.environ.get("EXPECT_MEGATRON"), megatron.core.__version__
    if expected and found != expected:
        raise pytest.UsageError(f"EXPECT_MEGATRON is {expected}, but Megatron-Core {found} is imported, from {megatron.core.__path__[0]}")
