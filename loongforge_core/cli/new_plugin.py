"""`new-plugin`: the beginning of a plugin of one's own, which trains and passes its tests before a line of it is changed."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from loongforge_core.errors import InputError
from loongforge_core.registry.registry import Registry
from loongforge_core.scaffold.names import plugin_names, refuse_taken
from loongforge_core.scaffold.write import plugin_files, write_plugin

__all__ = ["new_plugin"]


def new_plugin(args: argparse.Namespace) -> None:
    """Writes the files, and says what to do next."""
    if args.modality and args.kind != "encoder":
        raise InputError(f"--modality {args.modality}: only an encoder has a modality, not a {args.kind}")
    names = plugin_names(args.name, args.kind, args.modality or "image")
    refuse_taken(names, args.kind, Registry.discover(without=args.without))
    folder = Path(args.output or names.distribution)
    files = plugin_files(args.kind, names)
    write_plugin(folder, files)
    for name in files:
        print(folder / name)
    print(f"\nThe {args.kind} {names.component}. Next:")
    place = str(folder) if folder.is_absolute() else f"./{folder}"  # to pip, a name without a slash is in the package index
    print(f"    pip install -e {shlex.quote(f'{place}[test]')}")
    print(f"    loongforge train {names.component}_demo")
    print(f"    python -m pytest {shlex.quote(str(folder))}")
