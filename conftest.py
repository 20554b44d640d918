"""For every test: Megatron runs without an accelerator, and one thread a process, since tests of ranks start several at once."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-layouts",
        nargs="?",
        const="1/1",
        metavar="K/N",
        help="tests/layouts: the whole product of layouts instead of all pairs, or every Nth of it from the Kth",
    )
    parser.addoption("--whole-matrix", action="store_true", help="tests/matrix: every combination of components instead of a sample")


def pytest_configure() -> None:
    """`make test` says in EXPECT_MEGATRON which version each of its passes is for; without it any version will do."""
    import megatron.core

    # 0.19 adds the commit of the git checkout that it lies in: 0.19.2+07b6531.
    expected, found = os.environ.get("EXPECT_MEGATRON"), megatron.core.__version__.partition("+")[0]
    if expected and found != expected:
        raise pytest.UsageError(f"EXPECT_MEGATRON is {expected}, but Megatron-Core {found} is imported, from {megatron.core.__path__[0]}")
