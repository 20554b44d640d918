"""Whatever a YAML file says, `validate` ends at once, by 0 or by 2 and one message that says where; what it accepts, the schema accepts."""

from __future__ import annotations

import contextlib
import io
import random
import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from mutations import mutated

from loongforge_core.cli.main import main
from loongforge_core.config.document import LARGEST, read_document
from loongforge_core.config.library import PublishedFile, fills_slots, published_files
from loongforge_core.config.slot_names import FOUNDATION, slot_kind
from loongforge_core.registry.registry import Registry
from loongforge_core.schema.composition import composition_schema

SECONDS = 5
"""Of processor time, for a file that takes a fifth of one; the promise, not a measure."""
ABOUT_THE_WHOLE = ("there is no model", "no slot is filled", "nested too deeply", "larger than")
"""What no line of the file says."""


@dataclass(frozen=True)
class Plugins:
    compositions: tuple[PublishedFile, ...]
    sizes: tuple[PublishedFile, ...]
    schema: Draft7Validator


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    registry = Registry.discover()
    files = list(published_files(registry.config_folders))
    compositions = tuple(file for file in files if fills_slots(read_document(file.path)))
    sizes = tuple(file for file in files if file not in compositions)
    return Plugins(compositions, sizes, Draft7Validator(composition_schema(registry)))


def validated(file: Path) -> tuple[int, str]:
    """The exit status, and what was said."""
    output, said = io.StringIO(), io.StringIO()
    begin = time.process_time()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(said):
        status = main(["validate", str(file)])
    assert time.process_time() - begin < SECONDS
    assert status == 2 or (status, output.getvalue().endswith("OK\n")) == (0, True)
    return status, said.getvalue()


def written(folder: Path, plugins: Plugins, draw: random.Random) -> tuple[Path, list[Path]]:
    """A published file, mutated: a composition, or a size that one draws on. The composition, and all files."""
    folder.mkdir()
    composition = folder / "composition.yaml"
    if draw.random() < 0.7:
        mutate(draw.choice(plugins.compositions), composition, draw)
        return composition, [composition]
    published = draw.choice(plugins.sizes)
    group, _, name = published.name.rpartition("/")
    size = folder / group / f"{name}.yaml"
    size.parent.mkdir()
    mutate(published, size, draw)
    composition.write_text(f"defaults:\n  - {group}@model.{group if slot_kind(group) else FOUNDATION}: {name}\n")
    return composition, [composition, size]


def mutate(published: PublishedFile, target: Path, draw: random.Random) -> None:
    target.write_bytes(mutated(published.path.read_text(encoding="utf-8"), draw).encode("utf-8", "surrogateescape"))


def test_a_mutated_file_is_valid_or_refused_in_its_place(
    seeds: range, plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in seeds:
        composition, files = written(tmp_path / str(seed), plugins, random.Random(seed))
        status, said = validated(composition)
        what = f"seed {seed}: {said[:1000]}"
        assert "Traceback" not in said and "--debug" not in said, what
        if status == 0:
            for tree in (dict(read_document(file).tree) for file in files):
                # What a file has to say before its defaults, these may overwrite, however wrong it is.
                is_last = "_self_" not in tree.get("defaults", ())[:-1]
                assert not is_last or [error.message for error in plugins.schema.iter_errors(tree)] == [], what
        else:
            assert re.search(r"\.yaml:\d+: ", said) or (str(tmp_path) in said and any(about in said for about in ABOUT_THE_WHOLE)), what


# ------------------------------------------------------------------------------------------------------------------------- bombs


def levels(first: str, next_one: Callable[[int], str]) -> str:
    """Eight levels, each ten times the one before: a hundred million of the first."""
    return "\n".join([first, *(next_one(level) for level in range(1, 9))])


def ten(text: str, separator: str = ", ") -> str:
    return separator.join([text] * 10)


QUOTED = '"${{a{}}}"'
BOMBS: dict[str, tuple[str, str]] = {
    "aliases in lists": (levels("a0: &a0 [x]", lambda level: f"a{level}: &a{level} [{ten(f'*a{level - 1}')}]"), "more than 10000 values"),
    "merged aliases": (
        levels("a0: &a0 {}", lambda level: f"a{level}: &a{level} {{<<: [{ten(f'*a{level - 1}')}]}}"),
        "more than 10000 values",
    ),
    "references in text": (levels("a0: xxxxxxxxxx", lambda level: f"a{level}: {ten(f'${{a{level - 1}}}', '')}"), "longer than 100000"),
    "references beside each other": (
        levels("m:\n  a0: xxxxxxxxxx", lambda level: f"  a{level}: {ten(f'${{.a{level - 1}}}', '')}"),
        "longer than 100000",
    ),
    "references to mappings": (
        levels("a0: {x: 1}", lambda level: f"a{level}: [{ten(QUOTED.format(level - 1))}]"),
        "longer than 100000",
    ),
    "references that other values lead": (
        levels("a0: xxxxxxxxxx", lambda level: f"a{level}: {ten(f'${{oc.select:a{level - 1}}}', '')}"),
        "more than 10 references that lead where other values say",
    ),
    "references to references": (
        "\n".join(f"a{step}: ${{a{step + 1}}}" for step in range(3000)),
        "more than 40 references, each to the next",
    ),
    "references inside each other": (f"a: {'${' * 50_000}", "more than 50 references"),
    "brackets without end": (f"a: {'[' * 500_000}", "exceeded maximum nesting depth"),
    "an alias of itself": ("a: &a [*a]", "nested too deeply"),
    "levels that can be read and not merged": ("".join(f"{' ' * depth}a:\n" for depth in range(200)), ":52: a: nested too deeply"),
    "many keys": ("\n".join(f"key{number}: 1" for number in range(50_000)), "more than 10000 values"),
}


@pytest.mark.parametrize(("text", "message"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_ends_early_and_takes_no_memory(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, said = validated(file)
    assert status == 2 and f"error: {file}" in said and message in said, said[:1000]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes more than before"


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as stream:
        stream.truncate(2**35)
    status, said = validated(file)
    assert status == 2 and f"{file}: larger than {LARGEST} bytes" in said


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("defaults: [digits]\ntrain:\n  steps: !!int x", ":3: not YAML: this cannot be read as int"),
        ("defaults: [digits]\ntrain:\n  steps: !!bool x", ":3: not YAML: this cannot be read as bool"),
        (f"defaults: [digits]\ntrain:\n  steps: {'9' * 5000}", ":3: not YAML: this cannot be read as int"),
        ("train: {steps: 1}\ndefaults: [mine]", ":2: 'mine' is this file itself"),
        ("train: {steps: 1}\ndefaults: [there]", ":2: its defaults lead back to itself"),
        ("train: {steps: 1}\ndefaults:\n  - image_encoder@model.image_encoder: ${}", ":3: defaults.0: `${...}` cannot be read"),
        ("train: {steps: 1}\ndefaults: [_self_, _self_]", ":2: Duplicate _self_ among its defaults"),
        (f"train: {{steps: 1}}\ndefaults: [{'a' * 300}]", ":2: "),
        ("train: {steps: 1}\ndefaults: [qwen3@model.foundation: 'a@b{c']", ":2: no 'a@b{c' in the group 'qwen3'"),
        ("train: {steps: 1}\ndefaults: ['']", ":2: no YAML file ''"),
    ],
    ids=[
        "tag of an int",
        "tag of a bool",
        "a number too long",
        "itself",
        "a cycle",
        "a reference",
        "twice itself",
        "a long name",
        "no name",
        "nothing",
    ],
)
def test_the_line_is_named(text: str, where: str, tmp_path: Path) -> None:
    (tmp_path / "there.yaml").write_text("defaults: [and_back]")
    (tmp_path / "and_back.yaml").write_text("defaults: [there]")
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert f"error: {file}{where}" in validated(file)[1]


def test_a_long_value_is_not_said_whole(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"defaults: [digits]\nmodel: {{foundation: {{type: {'a' * 100_000}}}}}")
    _, said = validated(file)
    assert len(said) < 3000 and f"{file}:2: model.foundation.type: no backbone 'aaa" in said


def test_of_many_errors_a_hundred_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"defaults: [digits]\ndata: {{prepare: null, eval_path: null, path: [{', '.join(f'none{number}' for number in range(400))}]}}"
    )
    _, said = validated(file)
    assert said.startswith("400 errors:\n") and said.endswith("\n  and 300 more\n")
