"""The toy plugin installed beside those of this repository, and one that is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from installed import write_dist_info


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where both are installed, as pip leaves them; the working directory is empty."""
    site = tmp_path / "site"
    write_dist_info(site, "toy_plugin", module="toy_plugin.plugin")
    write_dist_info(site, "broken_plugin", module="no_such_module")
    monkeypatch.syspath_prepend(site)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return site
