"""The whole path, through SigLIP's processor and real PNG files."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from loongforge_vit.siglip.config import SiglipConfig
from PIL import Image

from loongforge_core.component import BackboneConfig, ComponentSpec
from loongforge_core.config.composition import Composition, Slot
from loongforge_core.config.settings import DataSettings, RunSettings, SlotSettings, TrainSettings
from loongforge_core.data.training_data import TrainingData
from loongforge_core.errors import ConfigError, DataError, LoongForgeError
from loongforge_core.model.batch import Batch
from loongforge_core.model.recipe_config import DefaultRecipeConfig
from loongforge_core.registry import Registry

SIGLIP = ComponentSpec(
    kind="encoder",
    name="siglip",
    summary="",
    modalities=("image",),
    config="loongforge_vit.siglip.config:SiglipConfig",
    processor="loongforge_vit.siglip.processor:SiglipProcessor",
)
TINY = ComponentSpec(kind="backbone", name="tiny", summary="", config="unused:unused")
RECIPE = ComponentSpec(kind="recipe", name="default", summary="", config="loongforge_core.model.recipe_config:DefaultRecipeConfig")
AUGMENT = {"image": {"translate": 0.1, "stretch": 0.2, "ramp": 0.5}}
NUM_SAMPLES = 10


@pytest.fixture
def open_data(tmp_path: Path, make_tokenizer: Callable[..., Path]) -> Callable[..., TrainingData]:
    """Ten questions, about no, one and two images."""
    lines = []
    for number in range(NUM_SAMPLES):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images = [f"{(number + place) % NUM_SAMPLES}.png" for place in range(number % 3)]
        turns = [{"role": "user", "content": "<image>" * len(images) + "?"}, {"role": "assistant", "content": str(number)}]
        lines.append({"messages": turns, "images": images})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenizer = make_tokenizer(special=("<|im_start|>", "<|im_end|>", "<image>"))

    def open_data(*, data: dict[str, object] | None = None, **train: object) -> TrainingData:
        run = RunSettings(
            tokenizer=str(tokenizer),
            data=DataSettings(**{"path": str(tmp_path / "train.jsonl"), "augment": AUGMENT, **(data or {})}),
            train=TrainSettings(**{"global_batch_size": 8, "micro_batch_size": 2, "steps": 6, "seq_length": 64, **train}),
        )
        siglip = SiglipConfig(image_size=8, patch_size=4)
        tiny = BackboneConfig(num_layers=1, hidden_size=8, vocab_size=264)
        slots = {
            "image_encoder": Slot("image_encoder", SIGLIP, siglip, SlotSettings(type="siglip")),
            "foundation": Slot("foundation", TINY, tiny, SlotSettings(type="tiny")),
        }
        registry = Registry()
        registry.register(SIGLIP)
        return TrainingData(Composition("test", slots, RECIPE, DefaultRecipeConfig(), run, {}), registry)

    return open_data


def samples(batches: Sequence[Batch]) -> list[tuple[list[int], list[int], bytes]]:
    """Each sample's tokens, targets and pixels, without padding."""
    found = []
    for batch in batches:
        for row in range(batch.num_samples):
            length = int((batch.position_ids[row] > 0).sum()) + 1
            pixels = b""
            if "image" in batch.items:
                owners = batch.placements["image"].sample_N[::4]  # four tokens an image
                pixels = batch.items["image"].inputs["pixel_values"][owners == row].numpy().tobytes()
            targets = (batch.labels_bs * batch.loss_mask_bs)[row, :length].int()
            found.append((batch.token_ids_bs[row, :length].tolist(), targets.tolist(), pixels))
    return found


def test_an_epoch_has_every_sample_once(open_data: Callable[..., TrainingData]) -> None:
    data = open_data(global_batch_size=NUM_SAMPLES)
    assert len(data) == NUM_SAMPLES
    answers = [next(token for token in targets if token) - ord("0") for _, targets, _ in samples(data.batches(0))]
    assert sorted(answers) == list(range(NUM_SAMPLES))


@pytest.mark.parametrize(("size", "micro_batch_size"), [(1, 8), (1, 1), (2, 2), (4, 1)])
def test_layout_and_micro_batch_size_change_no_sample(size: int, micro_batch_size: int, open_data: Callable[..., TrainingData]) -> None:
    """Distorted pixels included (I1). Step 4 is past the ramp and crosses an epoch's end."""
    whole = open_data()
    parts = open_data(micro_batch_size=micro_batch_size)
    for step in (0, 1, 4):
        shares = [parts.batches(step, rank=rank, size=size) for rank in range(size)]
        assert {len(share) for share in shares} == {8 // size // micro_batch_size}
        assert [sample for share in shares for sample in samples(share)] == samples(whole.batches(step))


def test_a_run_goes_on_as_if_it_had_not_stopped(open_data: Callable[..., TrainingData]) -> None:
    """What a step holds does not depend on the steps before it (I4)."""
    through = [samples(step.batches) for step in open_data().stream(0)]
    assert len(through) == 6
    assert [samples(step.batches) for step in open_data().stream(4)] == through[4:]
    assert samples(open_data(seed=2).batches(0)) != through[0]


def test_distortion_grows_and_differs_from_epoch_to_epoch(open_data: Callable[..., TrainingData]) -> None:
    settings = {"global_batch_size": NUM_SAMPLES, "micro_batch_size": NUM_SAMPLES}
    distorted, plain = open_data(**settings), open_data(data={"augment": {}}, **settings)

    def pixels(data: TrainingData, step: int) -> torch.Tensor:
        (batch,) = data.batches(step)
        return batch.items["image"].inputs["pixel_values"]

    changes = [float((pixels(distorted, step) - pixels(plain, step)).abs().mean()) for step in (0, 1, 3)]
    assert 0 == changes[0] < changes[1] < changes[2]
    epochs = [{sample[2] for sample in samples(distorted.batches(step)) if sample[2]} for step in (3, 4)]
    assert not epochs[0] & epochs[1]


def test_worker_processes_change_nothing(open_data: Callable[..., TrainingData]) -> None:
    here = [samples(step.batches) for step in open_data(steps=5).stream(1, rank=1, size=2)]
    before = torch.get_rng_state()
    there = [samples(step.batches) for step in open_data(steps=5, data={"num_workers": 2}).stream(1, rank=1, size=2)]
    assert there == here
    assert torch.equal(torch.get_rng_state(), before)


def workers() -> list[int]:
    """Processes that prepare samples: the children of the server that forks them."""
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return [int(child) for child in Path(f"/proc/{server}/task/{server}/children").read_text().split()]


def test_worker_processes_go_on_until_the_run_ends_and_then_end(open_data: Callable[..., TrainingData]) -> None:
    """Also where whoever ends the job signals all its processes, as Slurm does."""
    stream = open_data(data={"num_workers": 2}, steps=50).stream(0)
    names = [batch.names for batch in next(stream).batches]
    everyone = [*map(str, workers()), str(forkserver._forkserver._forkserver_pid)]  # type: ignore[attr-defined]
    for number in ("-USR1", "-TERM"):
        subprocess.run(["kill", number, *everyone], check=True)  # another process than this one
    for _ in range(10):  # more than were prepared
        names += [batch.names for batch in next(stream).batches]
    assert len(workers()) == 2 and len(names) == 44
    stream.close()  # type: ignore[attr-defined]
    assert not workers()


def test_worker_processes_end_where_the_training_process_says_so(open_data: Callable[..., TrainingData]) -> None:
    """As it does when it exits in the middle of the stream."""
    stream = open_data(data={"num_workers": 1}, steps=50).stream(0)
    next(stream)
    for worker in multiprocessing.active_children():
        worker.terminate()
        worker.join(timeout=30)
    assert not workers()


def test_a_worker_process_that_is_killed_is_one_readable_error(open_data: Callable[..., TrainingData]) -> None:
    stream = open_data(data={"num_workers": 1}, steps=50).stream(0)
    next(stream)
    (worker,) = workers()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(LoongForgeError, match=r"a process that prepares samples is gone \(.*data.num_workers"):
        list(stream)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_missing_image_is_one_readable_error(num_workers: int, open_data: Callable[..., TrainingData], tmp_path: Path) -> None:
    (tmp_path / "4.png").unlink()
    with pytest.raises(DataError) as caught:
        list(open_data(data={"num_workers": num_workers}).stream(0))
    line = str(caught.value).split(":")[1]
    assert str(caught.value) == f"{tmp_path}/train.jsonl:{line}: {tmp_path}/4.png: no such image"


def test_settings_that_a_run_cannot_do_without(open_data: Callable[..., TrainingData]) -> None:
    with pytest.raises(ConfigError, match=r"^data.path: training needs data"):
        open_data(data={"path": None})


# ---- several sources


def test_files_are_mixed_by_weight(open_data: Callable[..., TrainingData], tmp_path: Path) -> None:
    """Those of one entry are one source, and samples come from where they should."""
    (tmp_path / "other").mkdir()
    for name in ("first", "second"):
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": name}]
        (tmp_path / "other" / f"{name}.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 3)
    both = [str(tmp_path / "other" / f"{name}.jsonl") for name in ("first", "second")]
    mix = [{"path": str(tmp_path / "train.jsonl"), "weight": 3}, {"path": both, "weight": 1}]
    data = open_data(data={"path": mix}, steps=3)
    assert len(data) == NUM_SAMPLES + 6
    names = [name for step in data.stream(0) for batch in step.batches for name in batch.names]
    others = [name for name in names if "other" in name]
    assert [len(names), len(others), len(set(others))] == [24, 6, 6]


# ---- lines that cannot be used


def damage(folder: Path) -> dict[int, str]:
    """Lines of the data file that cannot be used, and what is said of them; images 4 and 5 belong to lines 4, 5 and 6."""
    lines = (folder / "train.jsonl").read_text().splitlines()
    lines[0] = lines[0][:-5]
    lines[2] = json.dumps({"messages": [{"role": "user", "content": "?" * 100}, {"role": "assistant", "content": "x"}]})
    lines[6] = json.dumps({"messages": [{"role": "user", "content": "?"}]})
    (folder / "train.jsonl").write_text("\n".join(lines))
    (folder / "4.png").unlink()
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:60])
    return {
        1: "expected a JSON object in one line",
        3: "tokens, items included, but train.seq_length is 64",
        5: "4.png: no such image",
        6: "5.png: ",
        7: "no message is the assistant's",
    }


SKIP = {"on_error": "skip"}


def test_lines_that_cannot_be_used_are_skipped_and_named(open_data: Callable[..., TrainingData], tmp_path: Path) -> None:
    """In their places are others, so that every batch is as large as ever; all other places are as they were."""
    whole = [batch.names for step in open_data().stream(0) for batch in step.batches]
    bad = damage(tmp_path)
    run = list(open_data(data=SKIP).stream(0))
    for step in run:
        assert {line.line for line in step.skipped} <= bad.keys() and all(line.file == f"{tmp_path}/train.jsonl" for line in step.skipped)
        assert all(bad[line.line] in line.reason and not line.reason.startswith(str(tmp_path / "train")) for line in step.skipped)
    assert {line.line for step in run for line in step.skipped} == bad.keys()
    unusable = {f"{tmp_path}/train.jsonl:{line}" for line in bad}
    names = [batch.names for step in run for batch in step.batches]
    assert [len(batch) for batch in names] == [2] * 24
    for before, after in zip((name for batch in whole for name in batch), (name for batch in names for name in batch), strict=True):
        assert after not in unusable and (before in unusable or after == before)


@pytest.mark.parametrize(("size", "more"), [(2, {}), (4, {"micro_batch_size": 1})])
def test_what_is_skipped_depends_on_no_layout_and_on_no_step_before(
    size: int, more: dict[str, object], open_data: Callable[..., TrainingData], tmp_path: Path
) -> None:
    damage(tmp_path)
    whole, parts = open_data(data=SKIP), open_data(data=SKIP, **more)
    for step in (5, 1):
        shares = [parts.step(step, rank=rank, size=size) for rank in range(size)]
        here = whole.step(step)
        assert [sample for share in shares for sample in samples(share.batches)] == samples(here.batches)
        assert tuple(line for share in shares for line in share.skipped) == here.skipped


def test_worker_processes_skip_the_same_lines(open_data: Callable[..., TrainingData], tmp_path: Path) -> None:
    damage(tmp_path)
    here = list(open_data(data=SKIP, steps=4).stream(1))
    there = list(open_data(data={**SKIP, "num_workers": 2}, steps=4).stream(1))
    assert [(samples(step.batches), step.skipped) for step in there] == [(samples(step.batches), step.skipped) for step in here]
    assert any(step.skipped for step in here)


def test_nothing_is_skipped_for_ever(open_data: Callable[..., TrainingData], tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("nonsense\n" * 50)
    with pytest.raises(DataError, match=r"(?s)100 lines, drawn one after another, cannot be used.*train.jsonl:\d+: expected a JSON object"):
        open_data(data=SKIP).step(0)


def test_a_file_that_changes_is_no_line_to_be_skipped(open_data: Callable[..., TrainingData], tmp_path: Path) -> None:
    data = open_data(data=SKIP)
    (tmp_path / "train.jsonl").write_text("x" + (tmp_path / "train.jsonl").read_text())
    with pytest.raises(DataError, match=rf"^{tmp_path}/train.jsonl:\d+: the file has changed since"):
        data.step(0)


def test_without_a_word_the_first_bad_line_stops_the_run(open_data: Callable[..., TrainingData], tmp_path: Path) -> None:
    damage(tmp_path)
    with pytest.raises(DataError, match=r"train.jsonl:1: expected a JSON object in one line"):
        open_data()
