"""Fills in the code of docs/authors/*.md: what `loongforge new-plugin` writes, and what files of this repository say.

python docs/write_pages.py

A block of code below one of these marks is the file's, or that of one class or function in it:

    <!-- new-plugin my_vit --kind encoder: my_vit/model.py -->
    <!-- file plugins/loongforge_projectors/loongforge_projectors/frame_stack/config.py: FrameStackConfig -->
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from loongforge_core.component import Kind
from loongforge_core.scaffold.names import plugin_names
from loongforge_core.scaffold.write import plugin_files

HERE = Path(__file__).parent
MARK = re.compile(
    r"(?P<mark><!-- (?P<how>new-plugin|file) (?P<what>[^:\n]*)(: (?P<part>[^\n]*))? -->\n)```(?P<language>\w+)\n.*?```\n", re.DOTALL
)


def pages() -> Iterator[Path]:
    yield from sorted((HERE / "authors").glob("*.md"))


def filled(text: str) -> str:
    """The page with every marked block as its source has it now."""

    def block(found: re.Match[str]) -> str:
        how = {"new-plugin": written, "file": published}[found["how"]]
        return f"{found['mark']}```{found['language']}\n{how(found['what'], found['part']).strip()}\n```\n"

    return MARK.sub(block, text)


def written(command: str, path: str) -> str:
    """A file of the plugin that `loongforge new-plugin COMMAND` writes."""
    name, *options = shlex.split(command)
    given: dict[str, Any] = dict(zip(options[::2], options[1::2], strict=True))
    kind = given["--kind"]
    assert kind in get_args(Kind), command
    return plugin_files(kind, plugin_names(name, kind, given.get("--modality", "image")))[path]


def published(path: str, name: str | None) -> str:
    """A file of this repository, or the class or function of this name in it."""
    text = (HERE.parent / path).read_text(encoding="utf-8")
    if name is None:
        return text
    (node,) = (node for node in ast.parse(text).body if getattr(node, "name", None) == name)
    return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
