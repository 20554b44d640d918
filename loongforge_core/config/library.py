"""The folders that YAML is taken from: the user's first, then every plugin's.

A name is a path inside such a folder without its extension: `GROUP/NAME`, or `NAME` or `FOLDER/NAME` for a composition.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loongforge_core.config.document import Document, read_document
from loongforge_core.errors import ConfigError, Issue, did_you_mean
from loongforge_core.registry.discover import ConfigFolder, Origin

__all__ = ["Library", "PublishedFile", "canonical_group", "fills_slots", "heading", "is_path", "published_files"]


@dataclass(frozen=True)
class PublishedFile:
    """One YAML file of a plugin."""

    name: str
    path: Path
    origin: Origin


@dataclass(frozen=True)
class Library:
    """Where names are looked up, in this order."""

    user_folders: tuple[Path, ...]
    published: tuple[ConfigFolder, ...]
    left_out: tuple[str, ...] = ()
    """What to say of plugins that are installed and whose folders are not among these."""

    @property
    def absent(self) -> str:
        """What follows a message about a name that is not there."""
        return "".join(f"; {said}" for said in self.left_out)

    @staticmethod
    def of(config: str, published: Sequence[ConfigFolder], config_dirs: Sequence[Path] = (), *, left_out: tuple[str, ...] = ()) -> Library:
        """What `config`, a path or a name, can draw on.

        The folder of the file; `models/` under its nearest parent named `configs`; the working directory's `configs/models`;
        `config_dirs`; the plugins' folders.
        """
        folders: list[Path] = []
        if is_path(config):
            home = Path(config).resolve().parent
            folders.append(home)
            folders += [parent / "models" for parent in (home, *home.parents) if parent.name == "configs"][:1]
        folders += [Path.cwd() / "configs" / "models", *(Path(folder).resolve() for folder in config_dirs)]
        return Library(tuple(dict.fromkeys(folder for folder in folders if folder.is_dir())), tuple(published), left_out)

    def find(self, name: str, *, besides: Path | None = None) -> Path | None:
        """The file of this name, or None. Raises ConfigError where two plugins publish it and the user has none."""
        for folder in self.user_folders:
            if (path := yaml_file(folder, name)) not in (None, besides):
                return path
        files = {yaml_file(folder.path, name): folder.origin for folder in self.published}
        found = {path: origin for path, origin in files.items() if path not in (None, besides)}
        if len(found) > 1:
            both = " and ".join(f"{origin} ({path})" for path, origin in found.items())
            raise ConfigError(f"{name!r} is published by {both}: put the one you mean into a folder of your own, or uninstall the other")
        return next(iter(found), None)

    def is_group(self, name: str) -> bool:
        """Whether a folder of this name holds YAML."""
        return any(holds_yaml(folder / name) for folder in self._folders())

    def options(self, group: str) -> list[str]:
        """Names of the YAML files of a group."""
        return sorted({path.stem for folder in self._folders() for path in (folder / group).glob("*.yaml")})

    def groups(self) -> list[str]:
        """Names of the folders that hold YAML, user's and published."""
        return sorted({path.parent.name for folder in self._folders() for path in folder.glob("*/*.yaml")})

    def names(self) -> list[str]:
        """Names of all compositions."""
        published = [file.name for file in published_files(self.published) if is_composition(file.path)]
        own = [path.stem for folder in self.user_folders for path in folder.glob("*.yaml")]
        return sorted({*published, *own})

    def _folders(self) -> Iterator[Path]:
        yield from self.user_folders
        yield from (folder.path for folder in self.published)


def is_path(config: str) -> bool:
    """Whether `config` is a file's path rather than a published name."""
    return config.endswith((".yaml", ".yml"))


def missing_config(config: str, library: Library) -> ConfigError:
    """What to say where a CONFIG is neither a file nor a name."""
    if is_path(config):
        near = [str(path) for path in Path(config).parent.glob("*.y*ml")] if Path(config).parent.is_dir() else []
        return ConfigError(Issue(f"no such file{did_you_mean(config, near)}", where=config))
    if Path(f"{config}.yaml").is_file():
        return ConfigError(f"no composition {config!r} is installed; did you mean the file {config}.yaml?")
    hint = did_you_mean(config, library.names()) + library.absent
    return ConfigError(f"no composition {config!r} is installed, and it is no path to a .yaml file{hint}")


def canonical_group(group: str) -> str:
    """`../../models/image_encoder`, `models/image_encoder` and `/image_encoder` are the group `image_encoder`."""
    parts = [part for part in PurePosixPath(group).parts if part not in ("/", ".", "..")]
    return "/".join(parts[1:] if len(parts) > 1 and parts[0] == "models" else parts)


def fills_slots(document: Document) -> bool:
    """Whether a file is a composition, or a part of one, rather than a component's size."""
    if "type" in document.tree:
        return False
    defaults = document.tree.get("defaults")
    targets = [key for default in defaults if isinstance(default, dict) for key in default] if isinstance(defaults, list) else []
    return "model" in document.tree or any(re.search(r"@(_global_\.)?model\.", str(target)) for target in targets)


def heading(document: Document) -> str:
    """What the comment at a file's beginning says of it: its first paragraph, in one line."""
    said: list[str] = []
    for line in document.text.lstrip().split("\n"):
        if not (text := line.removeprefix("#").strip()) or not line.startswith("#"):
            break
        said.append(text)
    return " ".join(said).rstrip(":")


def published_files(folders: Sequence[ConfigFolder]) -> Iterator[PublishedFile]:
    """Every YAML file of the plugins, by name."""
    for folder in folders:
        for path in sorted(folder.path.rglob("*.yaml")):
            yield PublishedFile(path.relative_to(folder.path).with_suffix("").as_posix(), path, folder.origin)


def is_composition(path: Path) -> bool:
    try:
        return fills_slots(read_document(path))
    except ConfigError:  # `list` says what is wrong with it
        return False


def yaml_file(folder: Path, name: str) -> Path | None:
    path = folder / f"{name}.yaml"
    return path if os.path.isfile(path) else None  # False, not an error, for a name too long


def holds_yaml(folder: Path) -> bool:
    return os.path.isdir(folder) and any(folder.glob("*.yaml"))
