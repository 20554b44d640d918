"""Writes components.md: what this repository publishes, and what goes with what, from the registry and the checks themselves.

python docs/write_components.py

Parameters are counted on modules without memory, which takes a minute for all of them; so a number that the page has already stays. A size
without one is counted: delete a number that may have changed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests" / "matrix"))

from compositions import PLUGINS, TINY, Triple, modality_of, reasons  # noqa: E402 (after the path)

from loongforge_core.cli.description import size, sizes_of  # noqa: E402
from loongforge_core.component import ComponentSpec  # noqa: E402
from loongforge_core.config.document import read_document  # noqa: E402
from loongforge_core.config.library import PublishedFile, fills_slots, heading, published_files  # noqa: E402
from loongforge_core.registry import Registry  # noqa: E402

PAGE = HERE / "components.md"
COUNTED = re.compile(r"`([\w.]+)` ([\d.]+[MB])\b")
HEADINGS = {"encoder": "Encoders", "projector": "Projectors", "backbone": "Language models", "recipe": "Recipes"}


def page(registry: Registry) -> str:
    return "\n".join(
        [
            "# Components",
            "",
            "Written by `make docs`; `loongforge show NAME` tells more of each. M and B are millions and billions of parameters.",
            *(line for kind, heading in HEADINGS.items() for line in section(kind, heading, registry)),
            *compositions(registry),
            *matrix(registry),
            "",
        ]
    )


def section(kind: str, heading: str, registry: Registry) -> Iterator[str]:
    named = "compositions" if kind == "recipe" else "sizes"
    yield from ("", f"## {heading}", "", f"| name | what it is | equals | {named} |", "| --- | --- | --- | --- |")
    for published in sorted(registry.components(), key=lambda published: published.spec.name):
        spec = published.spec
        if spec.kind == kind and spec.config.split(".")[0] in (*PLUGINS, "loongforge_models", "loongforge_core"):
            left_out = f"; left out: {spec.left_out}" if spec.left_out else ""
            yield f"| `{spec.name}` | {spec.summary}{left_out} | {equals(spec)} | {', '.join(sizes(spec, registry))} |"


def equals(spec: ComponentSpec) -> str:
    """The reference, as code where it is a class's name, and the paper as a link."""
    reference = spec.reference if " " in spec.reference else f"`{spec.reference}`" * bool(spec.reference)
    paper = f"[{spec.paper}](https://arxiv.org/abs/{spec.paper.removeprefix('arXiv:')})" * bool(spec.paper)
    return " ".join(filter(None, (reference, paper)))


def sizes(spec: ComponentSpec, registry: Registry) -> Iterator[str]:
    """By name; those of what has a size of its own with their parameters."""
    known = dict(COUNTED.findall(PAGE.read_text(encoding="utf-8"))) if PAGE.exists() else {}
    for file in sorted(sizes_of(spec, registry), key=lambda file: file.name.split("/")[-1]):
        name = file.name.split("/")[-1]
        if spec.kind in ("encoder", "backbone"):
            yield f"`{name}` {known.get(name) or counted(file, spec, registry)}"
        else:
            yield f"`{name}`"


def counted(file: PublishedFile, spec: ComponentSpec, registry: Registry) -> str:
    found = size(file, spec, registry.load(spec, "config"), registry, count=True)["parameters"]
    return f"{found / 1e6:.1f}M" if found < 1e9 else f"{found / 1e9:.2f}B"


def compositions(registry: Registry) -> Iterator[str]:
    yield from ("", "## Compositions", "", "| name | what it is |", "| --- | --- |")
    for file in published_files(registry.config_folders):
        document = read_document(file.path)
        if fills_slots(document) and file.origin.distribution in ("loongforge_models",):
            yield f"| `{file.name}` | {heading(document)} |"


def matrix(registry: Registry) -> Iterator[str]:
    """Encoders down, projectors across; a language model matters only where it takes no levels."""
    yield from ("", "## What goes with what", "")
    yield "Tried by `make test-matrix` with every language model: built, trained a step, saved and loaded. A number says why not."
    yield from ("", f"| encoder | {' | '.join(f'`{name}`' for name in TINY['projector'])} |", f"| --- |{' --- |' * len(TINY['projector'])}")
    notes: list[str] = []
    for encoder in TINY["encoder"]:
        cells = [cell(encoder, projector, registry, notes) for projector in TINY["projector"]]
        yield f"| `{encoder}` ({modality_of(encoder, registry)}) | {' | '.join(cells)} |"
    yield ""
    yield from (f"{number}. {note}" for number, note in enumerate(notes, start=1))


def cell(encoder: str, projector: str, registry: Registry, notes: list[str]) -> str:
    """`yes`, or `yes` with the language models that do not fit, or the number of the reason."""
    said = {backbone: "; ".join(reasons(Triple(encoder, projector, backbone), registry)) for backbone in TINY["backbone"]}
    refused = [backbone for backbone, reason in said.items() if reason]
    for reason in sorted({reason for reason in said.values() if reason} - set(notes)):
        notes.append(reason)
    numbers = ", ".join(str(notes.index(reason) + 1) for reason in sorted({said[backbone] for backbone in refused}))
    if len(refused) == len(said):
        return numbers
    return f"yes, not {', '.join(f'`{name}`' for name in refused)}: {numbers}" if refused else "yes"


if __name__ == "__main__":
    PAGE.write_text(page(Registry.discover()), encoding="utf-8")
