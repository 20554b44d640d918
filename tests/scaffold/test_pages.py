"""Every snippet of docs/authors is run, page by page, from an empty folder; what is shown of files is what they say.

Instead of `pip install` of what a page has just made, the same plugins, installed by pip already, are put on the path; and `python -m
pytest` is left to `tests/packaging`, which runs exactly the commands that `new-plugin` says.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from loongforge_core.cli.main import main
from loongforge_core.registry import Registry

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "authors").glob("*.md"))
BLOCK = re.compile(r"(<!-- (?:new-plugin|file) [^\n]*-->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHORT = ("train.steps=2", "data.eval_path=null")


@dataclass
class Reader:
    """Somebody who follows a page, in an empty folder."""

    install: Callable[[], None]
    said: list[str] = field(default_factory=list)
    """What `new-plugin` said to do next."""
    names: dict[str, Any] = field(default_factory=dict)
    commands: int = 0

    def follow(self, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Runs every block that is no file's, whose own tests run it."""
        blocks = BLOCK.findall(text := page.read_text(encoding="utf-8"))
        assert len(blocks) == text.count("```") / 2
        for mark, language, block in blocks:
            if mark:
                continue
            if language == "bash":
                for line in block.splitlines():
                    self.command(line, capsys)
            elif language == "python":
                exec(compile(block, str(page), "exec", dont_inherit=True), self.names)
            elif language == "yaml":
                self.composition_or_size(block, capsys)
            else:
                assert language == "json", f"{page}: nobody runs a block of {language!r}"
                Path("mine.jsonl").write_text(json.dumps(json.loads(block)))

    def command(self, line: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.commands += 1
        program, *arguments = shlex.split(line)
        if program == "loongforge":
            assert main([*arguments, *(SHORT if arguments[0] == "train" else ())]) == 0, f"{line}\n{capsys.readouterr()}"
            if arguments[0] == "new-plugin":
                self.said = [said.strip() for said in capsys.readouterr().out.splitlines()[-3:]]
        elif arguments[:2] == ["-m", "build"]:
            subprocess.run([sys.executable, *arguments, "--no-isolation"], check=True, stdout=subprocess.DEVNULL)
            assert sorted(path.suffix for path in Path(arguments[2], "dist").iterdir()) == [".gz", ".whl"]
        else:
            assert line in self.said, f"nobody runs {line}"
            if program == "pip":
                self.install()

    def composition_or_size(self, block: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Written where its first line says; a composition must be valid, and a size be all that its component needs."""
        path = Path(block.splitlines()[0].removeprefix("# "))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block, encoding="utf-8")
        folders: list[str] = []
        if "type" in yaml.safe_load(block):
            folders = ["--config-dir", str(path.parents[1])]
            drawn_on, path = f"{path.parent.name}@model.foundation: {path.stem}", Path("of_this_size.yaml")
            path.write_text(f"defaults:\n  - {drawn_on}\n  - _self_\n")
        assert main(["validate", str(path), *folders]) == 0, f"{path}\n{capsys.readouterr()}"


@pytest.fixture
def reader(site: Path, install: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] in {path.name for path in site.iterdir()}]:
        monkeypatch.delitem(sys.modules, name)  # of the page before, where it was installed
    return Reader(install)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_snippet_runs(page: Path, reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    reader.follow(page, capsys)
    assert reader.commands


def test_what_is_shown_of_files_is_what_they_say() -> None:
    """`make docs` fills it in."""
    write = runpy.run_path(str(DOCS / "write_pages.py"))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert write["filled"](text) == text, f"{page} is out of date: make docs"


def test_the_index_leads_to_every_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w/]+\.md)\)", index))
    assert linked == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize(("kind", "component", "name"), [("encoder", "siglip", "siglip_base_224"), ("backbone", "qwen3", "qwen3_0_6b")])
def test_the_page_of_components_says_how_many_parameters_there_are(kind: Any, component: str, name: str) -> None:
    """A number that the page has is not counted again by `make docs`, nor by the test that the page is up to date."""
    write = runpy.run_path(str(DOCS / "write_components.py"))
    registry = Registry.discover()
    spec = registry.component(kind, component)
    (file,) = (file for file in write["sizes_of"](spec, registry) if file.name.endswith(f"/{name}"))
    assert f"`{name}` {write['counted'](file, spec, registry)}" in (DOCS / "components.md").read_text(encoding="utf-8")


def test_what_validate_says_of_a_layout_is_what_the_page_of_layouts_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """Its other commands need several processes or machines: `tests/cli/test_several_processes.py`, `tests/packaging/test_slurm.py`."""
    (_, _, commands), (_, _, shown), *_ = BLOCK.findall((DOCS / "layouts.md").read_text(encoding="utf-8"))
    program, *arguments = shlex.split(commands.splitlines()[0])
    assert program == "loongforge" and arguments[0] == "validate" and main(arguments) == 0
    assert shown in capsys.readouterr().out
