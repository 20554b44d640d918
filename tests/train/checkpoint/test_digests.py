"""Whatever changes in a checkpoint after it was written is found before anything of it is read, and said by all ranks."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from megatron.core import dist_checkpointing
from torch import distributed

from loongforge_core.config.check import load_composition
from loongforge_core.config.composition import Composition
from loongforge_core.errors import CheckpointError, LoongForgeError
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import run_ranks, single_process
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint import digests, load
from loongforge_core.train.checkpoint.digests import Digest, digest_of
from loongforge_core.train.checkpoint.load import load_checkpoint, load_model
from loongforge_core.train.checkpoint.record import RECORD_FILE, Record, model_of, read_record
from loongforge_core.train.checkpoint.save import save_checkpoint
from loongforge_core.train.step import Trainer, build_trainer

SMALL = (
    *("data.prepare=null", "data.path=null", "data.eval_path=null", "model.image_encoder.num_layers=1", "model.foundation.num_layers=1"),
    *("model.foundation.hidden_size=16", "model.foundation.ffn_hidden_size=16"),
    *("model.image_encoder.hidden_size=16", "model.image_encoder.ffn_hidden_size=16"),
)


@dataclass(frozen=True)
class Saved:
    trainer: Trainer
    folder: Path
    """Of the newer of two checkpoints."""


def trainer_of(composition: Composition) -> Trainer:
    return build_trainer(composition, [OmniModelProvider(composition=composition, registry=Registry.discover())()])


def record_of(composition: Composition, step: int) -> Record:
    return Record(step=step, model=model_of(composition), numbers={}, plugins=("a plugin 1.0",))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    output = tmp_path_factory.mktemp("run")
    composition = load_composition("digits", [*SMALL, f"output_dir={output}"], registry=Registry.discover())
    with single_process():
        trainer = trainer_of(composition)
        save_checkpoint(output, trainer, record_of(composition, 1))
        yield Saved(trainer, save_checkpoint(output, trainer, record_of(composition, 2)))


@pytest.fixture
def folder(saved: Saved, tmp_path: Path) -> Path:
    """A copy of the newer one, in a copy of the run."""
    copy = tmp_path / "copy" / "checkpoints"
    shutil.copytree(saved.folder.parent, copy)
    return copy / saved.folder.name


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.name != RECORD_FILE}


def flip(path: Path, at: int | None = None, bit: int = 3) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1 << bit
    path.write_bytes(content)


def refused(saved: Saved, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said, before Megatron or anybody else has looked into it."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr(load, "refuse_code", read)
        patch.setattr(dist_checkpointing, "load", read)
        load_checkpoint(folder, saved.trainer)
    with pytest.raises(CheckpointError) as of_model:
        load_model(folder, saved.trainer.models, saved.trainer.composition)
    assert str(of_model.value) == str(caught.value)
    return str(caught.value)


# ---- what is recorded


def test_every_file_has_its_length_and_digest(saved: Saved) -> None:
    found = read_record(saved.folder).files
    expected = {name: Digest(len(content), hashlib.sha256(content).hexdigest()) for name, content in contents(saved.folder).items()}
    assert found == expected and {".metadata", "metadata.json"} < expected.keys()
    assert sum(name.endswith(".distcp") for name in found) >= 1


# ---- what is found


def test_a_flipped_bit_of_any_file_is_found(saved: Saved, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_checkpoint(folder, saved.trainer)
    for name, expected in read_record(folder).files.items():
        flip(folder / name)
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert refused(saved, folder, monkeypatch) == (
            f"{folder} is not as it was written: {name} has SHA-256 {found[:12]}..., expected {expected.sha256[:12]}...; the newest other "
            f"checkpoint of the run is {folder.with_name('step_00000001')}: name that one, or move this one away to go on from it"
        )
        flip(folder / name)
    load_checkpoint(folder, saved.trainer)


def test_a_flipped_bit_of_the_record_changes_nothing_that_it_says(folder: Path) -> None:
    whole = read_record(folder)
    content = (folder / RECORD_FILE).read_bytes()
    refusals = 0
    for at in range(0, len(content), 3):
        (folder / RECORD_FILE).write_bytes(content)
        flip(folder / RECORD_FILE, at, bit=at % 7)
        try:
            assert read_record(folder) == whole
        except CheckpointError as error:
            assert str(folder) in str(error)
            refusals += 1
    assert refusals > len(content) / 6, "the others are between words"


def test_a_record_without_its_own_digest_is_refused(folder: Path) -> None:
    tree = json.loads((folder / RECORD_FILE).read_text())
    del tree["sha256"]
    (folder / RECORD_FILE).write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=f"{RECORD_FILE} is not as it was written"):
        read_record(folder)


def lose(path: Path) -> str:
    path.unlink()
    return f"{path.name} is missing"


def lengthen(path: Path) -> str:
    before = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\0")
    return f"{path.name} has {before + 1} bytes, expected {before}"


def add(path: Path) -> str:
    shutil.copy(path, path.with_name("__7_0.distcp"))
    return "__7_0.distcp was not written with it: remove it"


@pytest.mark.parametrize("change", [lose, lengthen, add])
def test_files_that_are_missing_or_longer_or_too_many_are_named(
    saved: Saved, folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], str]
) -> None:
    said = change(folder / "__0_0.distcp")
    shutil.rmtree(folder.with_name("step_00000001"))
    assert refused(saved, folder, monkeypatch) == (
        f"{folder} is not as it was written: {said}; the run has no other checkpoint, so it must be copied anew, or made anew"
    )


def test_no_more_than_a_few_files_are_named(saved: Saved, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (folder / f"more_{number}.distcp").touch()
    said = refused(saved, folder, monkeypatch)
    assert "more_0.distcp was not" in said and "more_2.distcp was not" in said and "more_3" not in said and ", and 2 more; " in said


def test_notes_beside_a_checkpoint_are_left_alone(saved: Saved, folder: Path) -> None:
    (folder / "NOTES.txt").write_text("the one we shipped")
    (folder / ".nfs0000000000a1").touch()
    load_checkpoint(folder, saved.trainer)


def test_a_checkpoint_from_before_there_were_digests_is_read(saved: Saved, folder: Path) -> None:
    tree = json.loads((folder / RECORD_FILE).read_text())
    del tree["sha256"], tree["files"]
    (folder / RECORD_FILE).write_text(json.dumps(tree))
    assert load_checkpoint(folder, saved.trainer) == replace(read_record(saved.folder), files={})


# ---- two ranks


class Disk:
    """Counts what this rank reads, and fails where it is told to."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.is_broken = False

    def digest_of(self, path: Path) -> Digest:
        if self.is_broken:
            raise OSError(errno.EIO, "Input/output error")
        self.read.append(path.name)
        return digest_of(path)

    def what_was_read(self) -> list[str]:
        found, self.read = self.read, []
        return sorted(found)


def said_of(work: Callable[[], Any]) -> str:
    try:
        work()
    except LoongForgeError as error:
        return str(error)
    return ""


def on_two_ranks(composition: Composition) -> dict[str, Any]:
    initialise_groups(composition.run.parallel, seed=1)
    output, rank, disk = Path(composition.run.output_dir), distributed.get_rank(), Disk()
    digests.digest_of = disk.digest_of
    trainer = trainer_of(composition)
    folder = save_checkpoint(output, trainer, record_of(composition, 1))
    found: dict[str, Any] = {"saving": disk.what_was_read()}
    load_checkpoint(folder, trainer)
    found["loading"] = disk.what_was_read()
    disk.is_broken = rank == 1
    found["cannot read what it wrote"] = said_of(lambda: save_checkpoint(output, trainer, record_of(composition, 2)))
    found["left"] = sorted(path.name for path in folder.parent.iterdir())
    found["cannot read"] = said_of(lambda: load_checkpoint(folder, trainer))
    disk.is_broken = False
    if rank == 0:
        flip(folder / "__1_0.distcp")
    distributed.barrier()
    found["damaged"] = said_of(lambda: load_checkpoint(folder, trainer))
    return found


def test_ranks_read_each_file_once_between_them_and_say_the_same(tmp_path: Path) -> None:
    composition = load_composition(
        "digits",
        [*SMALL, "train.micro_batch_size=64", "parallel.use_distributed_optimizer=true", f"output_dir={tmp_path}"],
        registry=Registry.discover(),
        world_size=2,
    )
    first, second = run_ranks(on_two_ranks, 2, composition, timeout_s=60)
    folder = tmp_path / "checkpoints" / "step_00000001"
    names = sorted(contents(folder))
    own = [name for name in names if name.startswith("__1_")]
    assert own and second["saving"] == own and first["saving"] == [name for name in names if name not in own]
    assert sorted(first["loading"] + second["loading"]) == names and abs(len(first["loading"]) - len(second["loading"])) <= 1
    assert (
        first["cannot read what it wrote"]
        == second["cannot read what it wrote"]
        == (
            f"{folder.with_name('step_00000002')} could not be written: rank 1: Input/output error; "
            f"the last complete checkpoint is as it was: {folder}. The same command goes on from it"
        )
    )
    assert first["left"] == second["left"] == ["step_00000001"]
    assert first["cannot read"] == second["cannot read"] and " cannot be read: Input/output error" in first["cannot read"]
    assert first["damaged"] == second["damaged"] and f"{folder} is not as it was written: __1_0.distcp has SHA-256" in first["damaged"]
