"""Images become the pixels that transformers' processor makes of them, cut to their middle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from loongforge_vit.clip.config import ClipConfig
from loongforge_vit.clip.processor import ClipProcessor
from loongforge_vit.tower.distortion import Distortion
from pictures import IMAGES, noise
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.image_utils import load_image

from loongforge_core.component import Augmentation
from loongforge_core.errors import DataError


def processor(image_size: int, **changes: object) -> ClipProcessor:
    return ClipProcessor(ClipConfig(image_size=image_size, patch_size=4, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("image_size", [8, 31, 50])
def test_equals_transformers(name: str, image_size: int, tmp_path: Path) -> None:
    path = tmp_path / name
    IMAGES[name](path)
    ours = processor(image_size)
    reference = CLIPImageProcessorPil(**{key: value for key, value in ours.published().items() if key != "image_processor_type"})
    item = ours(path)
    assert item.size == (image_size, image_size)
    assert item.inputs["pixel_values"].dtype == np.float32
    np.testing.assert_array_equal(item.inputs["pixel_values"], reference(load_image(str(path)), return_tensors="np")["pixel_values"])


def test_the_defaults_are_openais() -> None:
    theirs, published = json.loads(CLIPImageProcessorPil().to_json_string()), processor(224).published()
    assert {key: theirs[key] for key in published} == {**published, "image_processor_type": theirs["image_processor_type"]}


@pytest.mark.parametrize("shape", [(9, 40), (40, 9), (1, 7), (1001, 999)])
def test_edges_that_do_not_come_out_even(shape: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(noise(*shape, 3)).save(tmp_path / "image.png")
    ours = processor(14)
    reference = CLIPImageProcessorPil(**{key: value for key, value in ours.published().items() if key != "image_processor_type"})
    pixels = ours(tmp_path / "image.png").inputs["pixel_values"]
    np.testing.assert_array_equal(pixels, reference(load_image(str(tmp_path / "image.png")), return_tensors="np")["pixel_values"])


def test_published_is_what_transformers_loads(tmp_path: Path) -> None:
    published = processor(32, image_mean=[0.1, 0.2, 0.3]).published()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(published))
    loaded = json.loads(CLIPImageProcessorPil.from_pretrained(tmp_path).to_json_string())
    assert {key: loaded[key] for key in published} == published


def test_a_training_image_may_be_distorted(tmp_path: Path) -> None:
    Image.fromarray(noise(30, 20, 3)).save(tmp_path / "image.png")
    ours = processor(8)
    moved = ours(tmp_path / "image.png", Augmentation(np.random.default_rng(0), 1.0, Distortion(translate=0.2)))
    assert not np.array_equal(moved.inputs["pixel_values"], ours(tmp_path / "image.png").inputs["pixel_values"])


def test_a_line_that_would_fill_all_memory_is_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(1, 30_000, 3)).save(tmp_path / "line.png")
    with pytest.raises(DataError, match=r"line.png: 1 x 30000 pixels are too elongated: .* 3,386,880,000, and at most 268,435,456"):
        processor(336)(tmp_path / "line.png")
