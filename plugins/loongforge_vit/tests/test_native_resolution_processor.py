"""Images and videos of any size become the patches that transformers' processors make of them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loongforge_vit.native_resolution.processor import NativeResolutionProcessor, fit_pixels
from loongforge_vit.qwen2_5_vl.config import Qwen25VlConfig
from loongforge_vit.qwen2_5_vl.processor import Qwen25VlProcessor
from loongforge_vit.qwen3_vl.config import Qwen3VlConfig
from loongforge_vit.qwen3_vl.processor import Qwen3VlProcessor
from pictures import noise
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from loongforge_core.errors import DataError

PROCESSORS: dict[str, Callable[..., NativeResolutionProcessor[Any]]] = {
    "qwen2_5_vl": lambda modality="image", **settings: Qwen25VlProcessor(Qwen25VlConfig(**settings), modality),
    "qwen3_vl": lambda modality="image", **settings: Qwen3VlProcessor(Qwen3VlConfig(**settings), modality),
}
SIZES = [(70, 100), (301, 40), (14, 14), (33, 500), (256, 256), (9, 700)]


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("limits", [{}, {"min_pixels": 4000, "max_pixels": 20_000}], ids=["published limits", "close limits"])
@pytest.mark.parametrize("height, width", SIZES)
def test_an_image_equals_transformers(name: str, limits: dict[str, int], height: int, width: int, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(noise(height, width, 3)).save(path)
    ours = PROCESSORS[name](**limits, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.25, 0.2])
    reference = Qwen2VLImageProcessorPil(**{key: value for key, value in ours.published().items() if key != "image_processor_type"})
    theirs = reference(load_image(str(path)), return_tensors="np")
    item = ours(path)
    assert item.size == tuple(theirs["image_grid_thw"][0])
    assert item.inputs["pixel_values"].dtype == np.float32
    np.testing.assert_array_equal(item.inputs["pixel_values"], theirs["pixel_values"])
    assert len(item.inputs["pixel_values"]) == ours.config.num_tokens(item.size)


def test_no_image_gives_more_tokens_than_the_largest() -> None:
    """Of any size, whatever the limits are, also where all images are brought to one number of pixels; and some come close."""
    random = np.random.default_rng(0)
    nearest = 0.0
    for _ in range(1000):
        fewest, room = random.integers(32**2, 400_000), random.choice([0, 0, 300_000])
        config = Qwen3VlConfig(min_pixels=int(fewest), max_pixels=int(fewest + room))
        width = int(random.integers(1, 3000))
        height = int(random.integers(-(-width // 200), min(200 * width, 3000) + 1))
        fitted = fit_pixels(height, width, config.block_size, fewest=config.min_pixels, most=config.max_pixels)
        most = config.num_tokens(config.largest_item_size("image") or ())
        tokens = config.num_tokens((1, fitted[0] // config.patch_size, fitted[1] // config.patch_size))
        assert tokens <= most, (height, width, config)
        nearest = max(nearest, tokens / most)
    assert nearest > 0.9
    assert Qwen3VlConfig().largest_item_size("video") is None


@pytest.mark.parametrize("name", PROCESSORS)
def test_published_is_what_transformers_loads(name: str, tmp_path: Path) -> None:
    published = PROCESSORS[name](min_pixels=1234).published()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(published))
    loaded = json.loads(Qwen2VLImageProcessorPil.from_pretrained(tmp_path).to_json_string())
    assert {key: loaded[key] for key in published} == published


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_image_that_is_too_elongated_is_refused(name: str, tmp_path: Path) -> None:
    Image.fromarray(noise(2, 401, 3)).save(tmp_path / "line.png")
    with pytest.raises(DataError, match=r"line.png: 2 x 401 pixels are too elongated"):
        PROCESSORS[name]()(tmp_path / "line.png")


# ----------------------------------------------------------------------------------------------------------------- videos


# Imported past the package, which asks for torchvision: that is needed to run it, not for what is asked here.
video_processing_qwen3_vl = importlib.import_module("transformers.models.qwen3_vl.video_processing_qwen3_vl")


def their_video_size(name: str, frames: int, height: int, width: int, config: Any) -> tuple[int, int]:
    """Qwen2.5-VL's takes each frame as an image."""
    limits = {"factor": config.block_size, "min_pixels": config.video_min_pixels, "max_pixels": config.video_max_pixels}
    if name == "qwen3_vl":
        return video_processing_qwen3_vl.smart_resize(frames, height, width, temporal_factor=2, **limits)
    return smart_resize(height, width, **limits)


@pytest.mark.parametrize("name", PROCESSORS)
def test_frames_become_as_large_as_those_of_transformers(name: str) -> None:
    random = np.random.default_rng(0)
    for limits in ({}, {"video_min_pixels": 50_000, "video_max_pixels": 200_000}):
        processor = PROCESSORS[name]("video", **limits)
        for _ in range(500):
            frames, height, width = int(random.integers(2, 40)), *map(int, random.integers(8, 900, 2))
            assert processor.target(frames, height, width) == their_video_size(name, frames, height, width, processor.config)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("number", [1, 4, 5])
def test_a_video_is_cut_as_transformers_cuts_it(name: str, number: int, tmp_path: Path) -> None:
    """Frames that need no resizing, whose pixels are known; a step without its second frame repeats the first."""
    side = PROCESSORS[name]().config.block_size
    processor = PROCESSORS[name]("video", video_min_pixels=1, video_max_pixels=10**9)
    frames = [noise(2 * side, 3 * side, 3, seed=seed) for seed in range(number)]
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{index:03}.png")
    item = processor(tmp_path)
    images = np.stack([frame.transpose(2, 0, 1) for frame in frames]).astype(np.float32) / 255
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (processor.config.image_mean, processor.config.image_std))
    patchify = video_processing_qwen3_vl.Qwen3VLVideoProcessor.patchify
    expected, *grid = patchify(None, torch.from_numpy((images - mean) / std)[None], processor.config.patch_size, 2, 2)
    assert item.size == tuple(grid)
    np.testing.assert_allclose(item.inputs["pixel_values"], expected[0].numpy(), atol=1e-6)


def test_published_of_a_video_is_what_transformers_has_settings_for() -> None:
    """Its processor is loaded with torchvision only; its class says which settings it has. Of a film it takes what a folder would hold."""
    theirs = video_processing_qwen3_vl.Qwen3VLVideoProcessor
    published = dict(PROCESSORS["qwen3_vl"]("video", frames_per_second=4.0).published())
    assert published.pop("video_processor_type") == theirs.__name__
    assert not [name for name in published if not hasattr(theirs, name)]
    assert (published["fps"], published["cap_pixels_per_frame"]) == (4.0, False)


def test_a_video_says_when_its_steps_are(tmp_path: Path) -> None:
    """In the middle of their frames; the frame that is repeated counts at its own time, as in Qwen3-VL's prompts."""
    for index in range(5):
        Image.fromarray(noise(32, 32, 3)).save(tmp_path / f"{index}.png")
    folder = PROCESSORS["qwen3_vl"]("video", frames_per_second=2.0)(tmp_path)
    assert folder.details == {"timestamps": (0.25, 1.25, 2.0), "seconds_per_step": 1.0}
    (tmp_path / "film.json").write_text(json.dumps({"frames": ["4.png", "0.png"], "fps": 10}))
    listed = PROCESSORS["qwen3_vl"]("video")(tmp_path / "film.json")
    assert listed.details == {"timestamps": (0.05,), "seconds_per_step": 0.2}
    assert hash(tuple(listed.details.items()))


def test_frames_are_taken_in_the_order_of_the_list(tmp_path: Path) -> None:
    for index in range(2):
        Image.fromarray(noise(32, 32, 3, seed=index)).save(tmp_path / f"{index}.png")
    for name, order in (("up.json", ["0.png", "1.png"]), ("down.json", ["1.png", "0.png"])):
        (tmp_path / name).write_text(json.dumps({"frames": order, "fps": 1}))
    up, down = (PROCESSORS["qwen3_vl"]("video")(tmp_path / name).inputs["pixel_values"] for name in ("up.json", "down.json"))
    channels_and_frames = (len(up), 3, 2, -1)
    np.testing.assert_array_equal(up.reshape(channels_and_frames)[:, :, ::-1], down.reshape(channels_and_frames))


def test_what_else_is_wrong_with_a_video(tmp_path: Path) -> None:
    process = PROCESSORS["qwen3_vl"]("video")
    with pytest.raises(DataError, match=r"none.json: no such video"):
        process(tmp_path / "none.json")
    with pytest.raises(DataError, match="a video without frames"):
        process(tmp_path)
    for index, side in enumerate((32, 64)):
        Image.fromarray(noise(side, side, 3)).save(tmp_path / f"{index}.png")
    with pytest.raises(DataError, match=r"frames of one video have one size, but 1.png has another than 0.png"):
        process(tmp_path)


def test_sides_are_whole_blocks_within_the_limits() -> None:
    random = np.random.default_rng(1)
    for _ in range(1000):
        height, width = map(int, random.integers(20, 3000, 2))
        if max(height, width) > 100 * min(height, width):
            continue
        fitted = fit_pixels(height, width, 28, fewest=56 * 56, most=1_000_000)
        assert fitted[0] % 28 == fitted[1] % 28 == 0
        assert 56 * 56 <= fitted[0] * fitted[1] <= 1_000_000
