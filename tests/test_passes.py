"""The two passes of `make test`, which `conftest.py` tells apart."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import megatron.core
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lists(pytestconfig: pytest.Config) -> Any:
    """The module that says what is in which pass."""
    return pytestconfig.pluginmanager.get_plugin(str(ROOT / "conftest.py"))


def names_of_tests() -> list[str]:
    files = [path for folder in ("tests", "plugins", "examples") for path in (ROOT / folder).rglob("test_*.py")]
    defined = re.compile(r"^(?:def )?(test_\w+)(?:\(| = )", re.MULTILINE)
    return [f"{path.relative_to(ROOT)}::{name}" for path in files for name in defined.findall(path.read_text())]


def test_what_is_left_to_the_newer_pass_is_where_that_pass_looks(lists: Any) -> None:
    (looks_in,) = re.findall(r"^MEGATRON_TESTS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    places = tuple(looks_in.replace("\\", "").split())
    left = [name for name in names_of_tests() if any(part in name for part in lists.NEWER_ONLY)]
    assert len(left) > 20
    assert not [name for name in left if not name.startswith(places) or any(part in name for part in lists.OLDER_ONLY)], "in no pass"


def test_every_row_names_some_test(lists: Any) -> None:
    names = names_of_tests()
    rows = [row.partition("[")[0] for row in (*lists.OLDER_ONLY, *lists.NEWER_ONLY, *lists.BOTH, *lists.FIRST)]
    assert not [row for row in rows if not any(row in name for name in names)]


def test_a_pass_refuses_another_version_than_expected() -> None:
    """As `make test` starts its two passes: with the newer one found nowhere, the second would repeat the first."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "tests/test_public_names.py"]
    version = megatron.core.__version__.partition("+")[0]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "EXPECT_MEGATRON": "9.9.9"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.returncode == 4, found.stdout + found.stderr
    assert f"EXPECT_MEGATRON is 9.9.9, but Megatron-Core {version} is imported" in found.stderr
