"""Plugins as `loongforge new-plugin` writes them, put on the path as pip leaves them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loongforge_core.cli.main import main

NEW = {
    "my_vit": ("--kind", "encoder"),
    "my-radar": ("--kind", "encoder", "--modality", "radar"),
    "my_projector": ("--kind", "projector"),
    "my_lm": ("--kind", "backbone"),
    "my_recipe": ("--kind", "recipe"),
}


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that they are written into."""
    folder = tmp_path_factory.mktemp("written")
    for name, options in NEW.items():
        assert main(["new-plugin", name, *options, "--output", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="session")
def site(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install` makes of them, all at once."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", target]
    subprocess.run([*command, *(written / name for name in NEW)], check=True)
    return target


@pytest.fixture
def install(site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on it is as if they were installed; processes that are started see them too."""

    def install() -> None:
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", "")))))

    return install


@pytest.fixture
def installed(install: Callable[[], None]) -> None:
    install()
