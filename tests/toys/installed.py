"""Plugins as pip leaves them: a module with a source made for the test, and the metadata beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["announcing", "write_dist_info"]


def announcing(encoder: str) -> str:
    """The source of a plugin with one encoder, which is the toy plugin's eye under another name."""
    return f'''
from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl

@hookimpl
def loongforge_components():
    return [ComponentSpec(kind="encoder", name="{encoder}", summary="", modalities=("image",), config="toy_plugin.config:EyeConfig")]
'''


def write_dist_info(
    site: Path, distribution: str, *, module: str | None = None, version: str = "1.0", requires: Sequence[str] = ()
) -> Path:
    """Metadata that says where its plugin is, in a module of its own name where no other is given; returns their folder."""
    info = site / f"{distribution}-{version}.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}")
    (info / "entry_points.txt").write_text(f"[loongforge]\n{distribution} = {module or distribution}\n")
    return info
