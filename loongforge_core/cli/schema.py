"""`loongforge schema`: what an editor needs to complete and check a YAML file. Imports no torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from loongforge_core.errors import InputError
from loongforge_core.registry.registry import Registry
from loongforge_core.schema.composition import composition_schema

__all__ = ["schema"]

BEGINNING = '{\n "$schema"'

USE = """\
VS Code's YAML extension (redhat.vscode-yaml) completes and checks a file whose first line is

    # yaml-language-server: $schema={path}

or all files of some folders, by this in .vscode/settings.json:

    "yaml.schemas": {{"{path}": ["configs/**/*.yaml"]}}

It covers the plugins that are installed now; write it again when others are."""


def schema(args: argparse.Namespace) -> None:
    """Writes the schema of the installed plugins to a file, or prints it."""
    text = json.dumps(composition_schema(Registry.discover(without=args.without)), indent=1)
    assert text.startswith(BEGINNING)
    if args.output is None:
        print(text)
        return
    path = Path(args.output)
    try:
        if path.exists() and not path.read_text(encoding="utf-8").startswith(BEGINNING):
            raise InputError(f"{path} is there already, and is no JSON schema: it is left as it is")
        path.write_text(text + "\n", encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    print(USE.format(path=path.resolve().as_posix()), file=sys.stderr)
