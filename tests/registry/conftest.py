"""Plugins that are installed for one test, each with a source of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from installed import write_dist_info


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Installs a distribution with one module, as pip would lay it out; gives the folder of its metadata."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(
        distribution: str, source: str, version: str = "1.2", *, entry_point: str | None = None, requires: Sequence[str] = ()
    ) -> Path:
        (tmp_path / f"{distribution}.py").write_text(source)
        monkeypatch.delitem(sys.modules, distribution, raising=False)
        return write_dist_info(tmp_path, distribution, module=entry_point, version=version, requires=requires)

    return install
