"""The files of a new plugin: made of the templates, then written where nothing is yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from loongforge_core.component import Kind
from loongforge_core.errors import InputError
from loongforge_core.scaffold.names import PluginNames

__all__ = ["plugin_files", "write_plugin"]

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".jinja"
ITEMS = {"image": "image", "audio": "sound"}
"""What an item of a modality is called in a sentence, where the modality's name is not said."""


def plugin_files(kind: Kind, names: PluginNames) -> Mapping[str, str]:
    """Text by path in the plugin's folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    item = ITEMS.get(names.modality, f"{names.modality} item")
    is_image = names.modality == "image"
    values = {**vars(names), "kind": kind, "item": item, "items": f"{item}s", "is_image": is_image, "suffix": "png" if is_image else "npy"}
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return {target: environment.get_template(source).render(values) for source, target in paths(kind, names)}


def write_plugin(folder: Path, files: Mapping[str, str]) -> None:
    """Raises InputError where the folder holds something."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists, and nothing was written: expected a new or an empty folder, see --output")
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}") from error


def paths(kind: Kind, names: PluginNames) -> Iterator[tuple[str, str]]:
    """A template, and the file that it becomes."""
    called = {
        "package/": f"{names.package}/",
        "configs/demo.yaml": f"configs/{names.component}_demo.yaml",
        "test_component.py": f"test_{names.component}.py",
        "gitignore": ".gitignore",
    }
    for part in ("every", kind):
        for path in sorted((TEMPLATES / part).rglob(f"*{SUFFIX}")):
            target = path.relative_to(TEMPLATES / part).as_posix().removesuffix(SUFFIX)
            for placeholder, name in called.items():
                target = target.replace(placeholder, name)
            yield path.relative_to(TEMPLATES).as_posix(), target
