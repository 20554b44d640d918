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


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy plugin and a broken one, as pip leaves them; the working directory is empty."""
    site = tmp_path / "site"
    for name, module in (("toy_plugin", "toy_plugin.plugin"), ("broken_plugin", "no_such_module")):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[loongforge]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(site)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return site
