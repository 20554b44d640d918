"""The plugin knows only the core's public names, and the core does not know the plugin."""

from __future__ import annotations

import ast
from pathlib import Path

import loongforge_sensor
from loongforge_sensor.plugin import loongforge_components

import loongforge_core


def test_only_public_names_are_imported() -> None:
    imported = set()
    for path in Path(loongforge_sensor.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loongforge_core"):
                assert node.module == "loongforge_core", f"{path}:{node.lineno} imports from {node.module}"
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("loongforge_core") for alias in node.names), f"{path}:{node.lineno}"
    assert {"ComponentSpec", "Encoder"} <= imported <= set(loongforge_core.__all__)


def test_the_core_has_never_heard_of_the_modality() -> None:
    (modality,) = loongforge_components()[0].modalities
    files = [path for path in Path(loongforge_core.__file__).parent.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(files) > 50
    assert [path for path in files if modality in path.read_text(encoding="utf-8").lower()] == []
