"""Folders of safetensors: what cannot be read says why; shards are as full as they get."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from loongforge_core.errors import WeightsError
from loongforge_core.weights.folder import Chunk, WeightsFolder, plan_shards, write_tensors
from loongforge_core.weights.tensor_file import TensorType

TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, 2), "c": torch.zeros(1)}


def chunk(tensors: Mapping[str, Tensor]) -> Chunk:
    return Chunk({name: TensorType(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}, tensors.items)


def written(folder: Path, *, max_shard_bytes: int) -> Path:
    folder.mkdir()
    write_tensors(folder, [chunk({name: tensor}) for name, tensor in TENSORS.items()], max_shard_bytes=max_shard_bytes)
    return folder


@pytest.mark.parametrize("max_shard_bytes, files", [(1000, 1), (20, 2), (1, 3)])
def test_what_is_written_is_read(max_shard_bytes: int, files: int, tmp_path: Path) -> None:
    folder = written(tmp_path / "hf", max_shard_bytes=max_shard_bytes)
    assert len(list(folder.glob("*.safetensors"))) == files
    stored = WeightsFolder(folder)
    assert {name: stored.tensors[name].shape for name in stored.tensors} == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    assert all(torch.equal(stored.read(name), tensor) for name, tensor in TENSORS.items())


def test_an_index_says_how_much_there_is(tmp_path: Path) -> None:
    folder = written(tmp_path / "hf", max_shard_bytes=20)
    tree = json.loads((folder / "model.safetensors.index.json").read_text())
    assert tree["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    assert tree["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }


def test_a_rule_s_tensors_stay_together() -> None:
    pair = chunk({"gate": torch.ones(4), "up": torch.ones(4)})
    assert plan_shards([pair, pair, pair], 64) == [[pair, pair], [pair]]
    assert plan_shards([pair, pair], 10) == [[pair], [pair]]


def test_a_view_is_written_whole(tmp_path: Path) -> None:
    write_tensors(tmp_path, [chunk({"halves": torch.arange(8.0)[::2]})], max_shard_bytes=1000)
    assert WeightsFolder(tmp_path).read("halves").tolist() == [0, 2, 4, 6]


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(WeightsError, match=r"only as pickles \(pytorch_model\.bin\), which can run code"):
        WeightsFolder(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights: neither model\.safetensors nor model\.safetensors\.index\.json"):
        WeightsFolder(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors is not a folder"):
        WeightsFolder(tmp_path / "model.safetensors")


def test_a_truncated_file(tmp_path: Path) -> None:
    folder = written(tmp_path / "hf", max_shard_bytes=1000)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-5])
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read as safetensors"):
        WeightsFolder(folder)


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    folder = written(tmp_path / "hf", max_shard_bytes=20)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00002\.safetensors does not exist, but .*index\.json names it"):
        WeightsFolder(folder)


def test_an_index_that_is_wrong_about_a_shard(tmp_path: Path) -> None:
    folder = written(tmp_path / "hf", max_shard_bytes=20)
    save_file({"a": TENSORS["a"], "stray": torch.ones(1)}, folder / "model-00001-of-00002.safetensors")
    with pytest.raises(WeightsError, match=r"disagree about stray"):
        WeightsFolder(folder)


def test_an_index_that_leaves_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other/model.safetensors"}}))
    with pytest.raises(WeightsError, match=r"names the file '\.\./other/model\.safetensors', which is not in the folder"):
        WeightsFolder(tmp_path)


@pytest.mark.parametrize("tree", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_map(tree: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(tree))
    with pytest.raises(WeightsError, match="has no weight_map"):
        WeightsFolder(tmp_path)
