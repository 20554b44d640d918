"""Checkpoints and Hugging Face folders: no pickle runs, no file elsewhere is read, and no code beside a model is imported."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attacks import DEEP, Place, code, payload, refused, with_code

from loongforge_core.train.checkpoint.record import read_record
from loongforge_core.train.checkpoint.refuse_code import MetadataUnpickler


def test_the_canary_sings(place: Place) -> None:
    """The payload does what the tests below look for, where nobody prevents it."""
    pickle.loads(pickle.dumps(payload(place)))
    assert place.canary.exists()
    place.canary.rmdir()


# ---- checkpoints


def metadata(place: Place, checkpoint: Path) -> None:
    (checkpoint / ".metadata").write_bytes(pickle.dumps(payload(place)))


def old_metadata(place: Place, checkpoint: Path) -> None:
    (checkpoint / ".metadata").write_bytes(b'cbuiltins\neval\n(S\'__import__("os").mkdir("%s")\'\ntR.' % os.fsencode(place.canary))


def common_state(place: Place, checkpoint: Path) -> None:
    torch.save({"a": payload(place)}, checkpoint / "common.pt")


def tensor(place: Place, checkpoint: Path) -> None:
    overwrite(place, checkpoint, "TensorStorageMetadata")


def entry(place: Place, checkpoint: Path) -> None:
    overwrite(place, checkpoint, "BytesStorageMetadata")


def overwrite(place: Place, checkpoint: Path, kind: str) -> None:
    """The bytes of an entry, which torch reads as a file of its own."""
    found = sound_metadata(checkpoint)
    index = next(index for index in found.storage_data if type(found.state_dict_metadata[index.fqn]).__name__ == kind)
    stored, hostile = found.storage_data[index], io.BytesIO()
    torch.save(payload(place), hostile, _use_new_zipfile_serialization=False)
    assert len(hostile.getvalue()) <= stored.length
    with (checkpoint / stored.relative_path).open("r+b") as file:
        file.seek(stored.offset)
        file.write(hostile.getvalue())


def file_elsewhere(place: Place, checkpoint: Path) -> None:
    found = sound_metadata(checkpoint)
    for stored in found.storage_data.values():
        stored.relative_path = f"../{checkpoint.name}/{stored.relative_path}"
    (checkpoint / ".metadata").write_bytes(pickle.dumps(found))


def record(place: Place, checkpoint: Path) -> None:
    (checkpoint / "loongforge.json").write_text(DEEP)


def sound_metadata(checkpoint: Path) -> Any:
    return MetadataUnpickler(io.BytesIO((checkpoint / ".metadata").read_bytes())).load()


CHECKPOINTS: Mapping[str, tuple[Callable[[Place, Path], None], str]] = {
    "a pickle as metadata": (metadata, "cannot be loaded safely: UnpicklingError: it names posix.mkdir"),
    "a pickle of the oldest kind": (old_metadata, "cannot be loaded safely: UnpicklingError: it names builtins.eval"),
    "a pickle as common state": (common_state, "cannot be loaded safely"),
    "a pickle as a tensor": (tensor, "cannot be loaded: rank 0: UnpicklingError: Weights only load failed"),
    "a pickle as an entry": (entry, "cannot be loaded safely"),
    "a file outside its folder": (file_elsewhere, "which is not in the folder"),
    "a record without end": (record, "is not what a checkpoint says of itself"),
}


@pytest.mark.parametrize(("attack", "message"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint(
    place: Place, run: Path, capsys: pytest.CaptureFixture[str], attack: Callable[[Place, Path], None], message: str
) -> None:
    checkpoint = place.folder / "step_00000001"
    shutil.copytree(run / "checkpoints" / "step_00000001", checkpoint)
    (checkpoint / "loongforge.json").write_text(replace(read_record(checkpoint), files={}).to_json())  # digests that would not fit
    attack(place, checkpoint)
    refused(capsys, ["generate", "digits", *place.overrides(), "--prompt", "1+1?", "--checkpoint", str(checkpoint)], message)


# ---- Hugging Face folders


def hf_with(place: Place, run: Path, files: Mapping[str, str | bytes], *without: str) -> Path:
    """The run's folder with other files."""
    folder = place.folder / "hf"
    shutil.copytree(run / "hf", folder)
    for name in without:
        (folder / name).unlink()
    for name, content in files.items():
        place.file(f"hf/{name}", content)
    return folder


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


def index_of(file: str) -> str:
    return json.dumps({"weight_map": {"a": file}})


WEIGHTS = "model.safetensors"
FOLDERS: Mapping[str, tuple[Callable[[Place, Path], Path], str]] = {
    "a pickle in another's name": (
        lambda place, run: hf_with(place, run, {WEIGHTS: pickle.dumps(payload(place))}),
        "cannot be read as safetensors",
    ),
    "a pickle": (lambda place, run: hf_with(place, run, {"pytorch_model.bin": pickle.dumps(payload(place))}, WEIGHTS), "can run code"),
    "a header without end": (lambda place, run: hf_with(place, run, {WEIGHTS: header(b"{}", 2**60)}), "cannot be read as safetensors"),
    "a header within headers": (lambda place, run: hf_with(place, run, {WEIGHTS: header(DEEP.encode())}), "cannot be read as safetensors"),
    "weights outside the folder": (
        lambda place, run: hf_with(place, run, {f"{WEIGHTS}.index.json": index_of("../other.safetensors")}, WEIGHTS),
        "which is not in the folder",
    ),
    "weights anywhere": (
        lambda place, run: hf_with(place, run, {f"{WEIGHTS}.index.json": index_of("/etc/passwd")}, WEIGHTS),
        "which is not in the folder",
    ),
    "a configuration without end": (lambda place, run: hf_with(place, run, {"config.json": DEEP}), "cannot be read as JSON"),
}


@pytest.mark.parametrize(("attack", "message"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_of_weights(
    place: Place, run: Path, capsys: pytest.CaptureFixture[str], attack: Callable[[Place, Path], Path], message: str
) -> None:
    to = ["--folder", str(attack(place, run)), "--output", str(place.folder / "imported")]
    refused(capsys, ["import-hf", "digits", *place.overrides(), *to], message)
    assert not (place.folder / "imported").exists()


def test_code_beside_a_model_is_not_read(place: Place, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the published folders have some, as InternVL's do, the keys that name it are known; elsewhere they are an error."""
    config = json.loads((run / "hf" / "config.json").read_text())
    folder = hf_with(place, run, {"config.json": with_code(config), "hostile.py": code(place)})
    to = ["--folder", str(folder), "--output", str(place.folder / "imported")]
    said = "config.json: auto_map.AutoModel is 'hostile.Hostile' in the file, but no table knows this key"
    refused(capsys, ["import-hf", "digits", *place.overrides(), *to], said)
