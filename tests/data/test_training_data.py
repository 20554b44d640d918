"""The whole path, through SigLIP's processor and real PNG files."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from loongforge_core.errors import ConfigError, DataError
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


def samples(batches: list[Batch]) -> list[tuple[list[int], list[int], bytes]]:
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
    through = [samples(batches) for batches in open_data().stream(0)]
    assert len(through) == 6
    assert [samples(batches) for batches in open_data().stream(4)] == through[4:]
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
    here = [samples(batches) for batches in open_data(steps=5).stream(1, rank=1, size=2)]
    before = torch.get_rng_state()
    there = [samples(batches) for batches in open_data(steps=5, data={"num_workers": 2}).stream(1, rank=1, size=2)]
    assert there == here
    assert torch.equal(torch.get_rng_state(), before)


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
