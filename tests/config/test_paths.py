"""Files and folders that a composition names: what must be there, is looked for, and can be written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trees import changed, issue, issues

from loongforge_core.config.check import composition_from, load_composition
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Registry


def test_data_that_a_plugin_will_write_need_not_be_there(registry: Registry) -> None:
    data = {"prepare": "pictures", "path": "nowhere/train.jsonl", "eval_path": "nowhere/test.jsonl"}
    assert composition_from(changed(data=data), registry).run.data.path == "nowhere/train.jsonl"
    assert set(issues(registry, changed(data={**data, "eval_path": "elsewhere/test.jsonl"}))) == {"data.eval_path"}


def test_missing_files_are_named_with_the_nearest(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "words").mkdir()
    tree = changed(
        tokenizer="word",
        data={"path": ["train.jsonl", "trian.jsonl"], "eval_path": "words"},
        model__foundation__pretrained="no/such/folder",
    )
    found = issues(registry, tree)
    assert found["tokenizer"] == f"missing folder 'word' in {tmp_path}; did you mean 'words'?"
    assert found["data.path"] == f"missing file 'trian.jsonl' in {tmp_path}; did you mean 'train.jsonl'?"
    assert found["data.eval_path"] == "missing file 'words': it is there, but it is no file"
    assert found["model.foundation.pretrained"] == f"missing folder 'no/such/folder': there is no folder {tmp_path / 'no/such'}"


def test_a_path_meant_from_the_files_folder_is_recognised(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "words").mkdir()
    config = tmp_path / "there" / "my.yaml"
    config.write_text("model: {image_encoder: {type: eye}}\ntokenizer: words\n")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match=f"{config}:2: tokenizer: missing folder 'words' .*did you mean '{tmp_path / 'there' / 'words'}'"):
        load_composition(str(config), registry=registry)


def test_package_urls_name_installed_plugins_only(registry: Registry) -> None:
    assert "no installed plugin's package" in issue(registry, tokenizer="pkg://json/words")[1]


@pytest.mark.parametrize("given", ["taken", "taken/below"])
def test_an_output_dir_that_cannot_be_a_folder(registry: Registry, tmp_path: Path, given: str) -> None:
    (tmp_path / "taken").touch()
    key, message = issue(registry, output_dir=str(tmp_path / given))
    assert key == "output_dir"
    assert f"{tmp_path / 'taken'} is a file" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_dir_that_cannot_be_written_to(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "locked").mkdir(mode=0o555)
    key, message = issue(registry, output_dir=str(tmp_path / "locked/run"), data={"path": str(tmp_path / "train.jsonl")})
    assert key == "output_dir"
    assert "cannot be written to" in message


def test_a_folder_without_what_it_is_named_for(registry: Registry, tmp_path: Path) -> None:
    tree = changed(tokenizer=str(tmp_path), model__foundation__pretrained=str(tmp_path))
    found = issues(registry, tree)
    assert "has no tokenizer.json or tokenizer_config.json or tokenizer.model" in found["tokenizer"]
    assert "has no config.json" in found["model.foundation.pretrained"]
    (tmp_path / "tokenizer.model").touch()
    (tmp_path / "config.json").touch()
    ((key, message),) = issues(registry, tree).items()
    assert key == "model.foundation.pretrained"
    assert "has no *.safetensors" in message
