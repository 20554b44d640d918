"""What `loongforge new-plugin` writes, and what it refuses.

`tests/packaging` installs an encoder in a clean environment, trains it and runs its tests.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from loongforge_core.cli.main import main

EDITED = ("config.py", "model.py", "processor.py")
"""What an author of an encoder changes; the rest names things, or is the demo's."""


def lines_of_code(path: Path) -> int:
    """All but blank lines and comments: imports and docstrings count."""
    left_out = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING)
    tokens = tokenize.tokenize(io.BytesIO(path.read_bytes()).readline)
    return len({line for token in tokens if token.type not in left_out for line in range(token.start[0], token.end[0] + 1)})


@pytest.mark.parametrize("name", ["my_vit", "my-radar"])
def test_a_small_encoder_is_sixty_lines_of_the_authors_own(name: str, written: Path) -> None:
    package = written / name / name.replace("-", "_")
    assert 40 < sum(lines_of_code(package / file) for file in EDITED) <= 60


def test_what_is_written_is_formatted_and_without_remarks(written: Path) -> None:
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--no-cache", "--line-length", "140"]
    subprocess.run([*ruff, "check", *options, "--select", "E,F,I,UP,B,SIM", "."], check=True, cwd=written)
    subprocess.run([*ruff, "format", "--check", *options, "."], check=True, cwd=written)
    assert not [path for path in written.rglob("*") if path.is_file() and ("{{" in (text := path.read_text()) or "{%" in text)]


@pytest.mark.usefixtures("installed")
def test_every_kind_is_found_and_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = {(row["kind"], row["name"]): row["distribution"] for row in json.loads(capsys.readouterr().out)}
    kinds = {"my_vit": "encoder", "my_radar": "encoder", "my_projector": "projector", "my_lm": "backbone", "my_recipe": "recipe"}
    for name, kind in kinds.items():
        assert found[kind, name] == found["composition", f"{name}_demo"] == ("my-radar" if name == "my_radar" else name)
        assert main(["validate", f"{name}_demo"]) == 0
        assert capsys.readouterr().out.endswith("OK\n")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("distribution", "kind"), [("my_projector", "projector"), ("my_lm", "backbone"), ("my_recipe", "recipe")])
def test_the_other_kinds_pass_their_tests(distribution: str, kind: str) -> None:
    """But for those in layouts, in which the judge's own tests try every projector and language model of ours, on the same layers."""
    from loongforge_core import Registry
    from loongforge_core.testing.conformance import CHECKS, components_of, judge

    registry = Registry.discover()
    (spec,) = components_of(distribution, registry)
    results = list(judge(spec, registry, [check for check in CHECKS if not check.name.startswith("layout")]))
    assert spec.kind == kind and len(results) > 3
    assert not [str(result) for result in results if result.status == "finding"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("modality", ["image", "radar"])
def test_items_of_any_size_become_as_many_tokens_as_are_counted(modality: str, tmp_path: Path) -> None:
    from loongforge_core import Items, Registry
    from loongforge_core.testing.conformance.trials import concatenated
    from loongforge_core.testing.reference import ours

    name = {"image": "my_vit", "radar": "my_radar"}[modality]
    registry = Registry.discover()
    registry.load_dataset(registry.dataset(f"{name}_stripes"))(tmp_path)
    spec = registry.component("encoder", name)
    config = registry.load(spec, "config")()
    items = [registry.load(spec, "processor")(config)(path) for path in sorted((tmp_path / f"{modality}s").glob("test_*"))[:5]]
    with ours(config, registry=registry) as built:
        features = built.model(Items(concatenated(items), tuple(item.size for item in items)))
    assert len({item.size for item in items}) > 1
    assert len(features.hidden_NW) == sum(config.num_tokens(item.size) for item in items)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("MyViT", "--kind", "encoder"), "'MyViT' is no name for a plugin: expected lower-case letters, digits, '_' and '-'; did you mean"),
        (("../vit", "--kind", "encoder"), "'../vit' is no name for a plugin"),
        (("siglip", "--kind", "encoder"), "encoder 'siglip' is published by loongforge_vit 0.1.0 already; expected another name"),
        (("loongforge_siglip", "--kind", "encoder"), "encoder 'siglip' is published by loongforge_vit"),
        (("torch", "--kind", "projector"), "is installed already; expected another, such as loongforge_torch"),
        (("loongforge-vit", "--kind", "projector"), "is installed already"),
        (("json", "--kind", "recipe"), "'json' is a name of Python's own; expected another, such as loongforge_json"),
        (("mine", "--kind", "recipe", "--modality", "image"), "--modality image: only an encoder has a modality, not a recipe"),
        (("mine", "--kind", "encoder", "--modality", "3D"), "'3D' is no name for a modality"),
        (("mine", "--kind", "encoder", "--output", "taken"), "taken exists, and nothing was written: expected a new or an empty folder"),
        (("mine", "--kind", "encoder", "--output", "file"), "file exists, and nothing was written"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    assert main(["new-plugin", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine.txt", "taken"]


def test_the_next_commands_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "loongforge-fine", "--kind", "projector"]) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert said == ["pip install -e './loongforge-fine[test]'", "loongforge train fine_demo", "python -m pytest loongforge-fine"]
