"""Puts the toy plugin on the path, and a registry that knows it into the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent

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
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Installs a distribution with one module, as pip would lay it out; gives the folder of its metadata."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(
        distribution: str, source: str, version: str = "1.2", *, entry_point: str | None = None, requires: Sequence[str] = ()
    ) -> Path:
        (tmp_path / f"{distribution}.py").write_text(dedent(source))
        info = tmp_path / f"{distribution}-{version}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}")
        (info / "entry_points.txt").write_text(f"[loongforge]\n{distribution} = {entry_point or distribution}\n")
        monkeypatch.delitem(sys.modules, distribution, raising=False)
        return info

    return install
