"""The forms of `data.path`, and what is said of slips in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Registry

MODEL = {"foundation": {"type": "brain", "num_layers": 2, "hidden_size": 16}}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        (tmp_path / f"{name}.jsonl").touch()


def compose(registry: Registry, path: Any) -> Composition:
    return composition_from({"model": MODEL, "data": {"path": path}}, registry)


MIX = [{"path": "a.jsonl", "weight": 7}, {"path": ["b.jsonl", "c.jsonl"], "weight": 0.5}]


@pytest.mark.parametrize(
    ("path", "sources"),
    [
        ("a.jsonl", [(["a.jsonl"], 1)]),
        (["a.jsonl", "b.jsonl"], [(["a.jsonl", "b.jsonl"], 1)]),
        (MIX, [(["a.jsonl"], 7), (["b.jsonl", "c.jsonl"], 0.5)]),
    ],
)
def test_files_are_one_source_or_several_with_weights(path: Any, sources: Any, registry: Registry) -> None:
    composition = compose(registry, path)
    assert [(source.paths, source.weight) for source in composition.run.data.sources] == sources
    assert composition.run.data.paths == [file for files, _ in sources for file in files]
    assert composition_from(composition.resolved, registry).run == composition.run


@pytest.mark.parametrize(
    ("path", "key", "message"),
    [
        ({"a.jsonl": 0.7}, "path", "got a mapping; files that are mixed by weight are a list: [{path: a.jsonl, weight: 0.7}, ...]"),
        ([], "path", "got an empty list, expected at least one file"),
        ([{"path": [], "weight": 1}], "path.0.path", "got an empty list, expected at least one file"),
        (["a.jsonl", MIX[0]], "path", "some entries have a weight and some have none; write all as {path: a.jsonl, weight: 0.7}, or"),
        ([{"path": "a.jsonl", "weight": 0}], "path.0.weight", "got 0, expected greater than 0"),
        ([MIX[0], {"path": "b.jsonl", "weight": -1}], "path.1.weight", "got -1, expected greater than 0"),
        ([{"path": "a.jsonl", "weight": "much"}], "path.0.weight", "got 'much' (text), expected a number"),
        ([{"path": "a.jsonl"}], "path.0.weight", "not given, and it has no default: This source's share of a run's samples"),
        ([{"path": "a.jsonl", "wieght": 1, "weight": 1}], "path.0.wieght", "unknown key; did you mean 'weight'?"),
        ([{"path": "d.jsonl", "weight": 1}], "path.0.path", "missing file 'd.jsonl' in "),
        ([MIX[1], {"path": ["a.jsonl", "aa.jsonl"], "weight": 1}], "path.1.path", "; did you mean 'a.jsonl'?"),
        (7, "path", "got 7, expected text or a list"),
    ],
)  # fmt: skip
def test_a_slip_in_a_mixture_is_told_where_it_is(path: Any, key: str, message: str, registry: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(registry, path)
    found = {issue.key: issue.message for issue in caught.value.issues}
    assert list(found) == [f"data.{key}"] and message in found[f"data.{key}"], found
