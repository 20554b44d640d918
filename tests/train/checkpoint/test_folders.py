"""A checkpoint is complete or invisible; the newest are kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from saved_runs import Saved, record_of

from loongforge_core.config.composition import Composition
from loongforge_core.errors import CheckpointError, LoongForgeError
from loongforge_core.train.checkpoint import save as saving
from loongforge_core.train.checkpoint.folders import checkpoints, find_checkpoint, newest_checkpoint, remove_old, remove_unfinished
from loongforge_core.train.checkpoint.save import save_checkpoint

Compose = Callable[..., Composition]

pytestmark = pytest.mark.usefixtures("one_process")


def test_an_unfinished_checkpoint_is_invisible(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    output = Path(saved.composition.run.output_dir)
    monkeypatch.setattr(saving, "write_through", fail)
    with pytest.raises(LoongForgeError, match=f"step_00000004 could not be written: no space left.*as it was: {saved.folder}"):
        save_checkpoint(output, saved.trainer, record_of(saved.composition, saved.data, 4))
    assert checkpoints(output) == {3: saved.folder} and newest_checkpoint(output) == saved.folder
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step_00000003"]


def test_an_old_checkpoint_is_complete_until_it_is_invisible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Path, **__: object) -> None:
        raise KeyboardInterrupt

    for step in (2, 4, 6):
        (tmp_path / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    remove_old(tmp_path, keep=0)
    assert list(checkpoints(tmp_path)) == [2, 4, 6]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", stop)
        remove_old(tmp_path, keep=1)
    assert list(checkpoints(tmp_path)) == [4, 6]
    remove_unfinished(tmp_path)
    remove_old(tmp_path, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000006"]


def test_the_last_are_kept_and_those_of_every_so_many_steps(tmp_path: Path) -> None:
    for step in range(2, 19, 2):
        (tmp_path / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    remove_old(tmp_path, keep=2, retain_interval=6, spared=[10])
    assert list(checkpoints(tmp_path)) == [6, 10, 12, 16, 18]


def test_the_newest_is_found_from_anywhere_in_a_run(saved: Saved, tmp_path: Path) -> None:
    output = Path(saved.composition.run.output_dir)
    save_checkpoint(output, saved.trainer, record_of(saved.composition, saved.data, 12))
    assert find_checkpoint(output) == find_checkpoint(output / "checkpoints") == output / "checkpoints" / "step_00000012"
    assert find_checkpoint(saved.folder) == saved.folder
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
