"""Files are those of the safetensors package, byte for byte, in whatever order their tensors are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loongforge_core.errors import WeightsError
from loongforge_core.weights.tensor_file import DTYPES, TensorType, TensorWriter, stored_tensors

TENSORS = {
    "z": torch.randn(3, 5),
    "scale": torch.tensor(2.5),
    "nothing": torch.empty(0, 4),
    "größe": torch.arange(3),
    "half": torch.randn(7).to(torch.bfloat16),
    **{f"a.{dtype}": torch.arange(6).reshape(2, 3).to(kind) for dtype, kind in DTYPES.items()},
}


def types() -> dict[str, TensorType]:
    return {name: TensorType(tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}


def test_the_same_bytes_as_save_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "theirs", metadata={"format": "pt"})
    with TensorWriter(tmp_path / "ours", types()) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert load_file(tmp_path / "ours").keys() == TENSORS.keys()


def test_what_save_file_writes_is_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "theirs")
    stored = stored_tensors(tmp_path / "theirs")
    assert stored.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert stored[name].whole().dtype == tensor.dtype
        assert torch.equal(stored[name].whole().view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8)), name


def test_equal_in_another_file(tmp_path: Path) -> None:
    changed = {**TENSORS, "z": TENSORS["z"] + 1, "scale": torch.tensor(2.0), "half": TENSORS["half"].float()}
    for name, tensors in (("one", TENSORS), ("other", changed)):
        save_file(tensors, tmp_path / name)
    one, other = stored_tensors(tmp_path / "one"), stored_tensors(tmp_path / "other")
    assert [name for name in TENSORS if not one[name].equals(other[name])] == ["z", "scale", "half"]


def test_a_tensor_that_was_announced_and_not_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="never written: scale"), TensorWriter(tmp_path / "ours", types()) as writer:
        for name, tensor in TENSORS.items():
            if name != "scale":
                writer.write(name, tensor)


def test_a_dtype_that_we_do_not_know(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "U16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(WeightsError, match=r"model\.safetensors: a has the dtype U16; expected one of BOOL, U8"):
        stored_tensors(tmp_path / "model.safetensors")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1000)}, tmp_path / "model.safetensors")
    stored = stored_tensors(tmp_path / "model.safetensors")
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(WeightsError, match="has become shorter"):
        stored["a"].whole()
