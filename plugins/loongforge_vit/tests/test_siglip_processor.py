"""Images become the pixels that transformers' processor makes of them; what is refused; how training images are distorted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from loongforge_vit.siglip.config import SiglipConfig
from loongforge_vit.siglip.processor import SiglipProcessor
from loongforge_vit.tower.distortion import Distortion, distort
from pictures import IMAGES, noise
from PIL import Image
from pydantic import ValidationError
from transformers import SiglipImageProcessorPil
from transformers.image_utils import load_image

from loongforge_core.component import Augmentation
from loongforge_core.errors import DataError


def processor(image_size: int = 32, **changes: object) -> SiglipProcessor:
    return SiglipProcessor(SiglipConfig(image_size=image_size, patch_size=4, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("image_size", [8, 32, 50])
def test_equals_transformers(name: str, image_size: int, tmp_path: Path) -> None:
    path = tmp_path / name
    IMAGES[name](path)
    ours = processor(image_size, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.25, 0.2])
    reference = SiglipImageProcessorPil(**{key: value for key, value in ours.published().items() if key != "image_processor_type"})
    item = ours(path)
    assert item.size == (image_size, image_size)
    assert item.inputs["pixel_values"].dtype == np.float32
    np.testing.assert_array_equal(item.inputs["pixel_values"], reference(load_image(str(path)), return_tensors="np")["pixel_values"])


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    """`load_image` drops it; given the image itself, the reference lays it over white, and so do we."""
    path = tmp_path / "transparent.png"
    Image.fromarray(noise(40, 60, 4)).save(path)
    reference = SiglipImageProcessorPil(size={"height": 32, "width": 32})(Image.open(path), return_tensors="np")
    np.testing.assert_array_equal(processor()(path).inputs["pixel_values"], reference["pixel_values"])


def test_images_are_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: rotate by 90 degrees
    Image.fromarray(noise(40, 60, 3)).save(path, exif=exif)
    Image.fromarray(np.rot90(noise(40, 60, 3), -1)).save(tmp_path / "upright.png")
    turned, upright = (processor()(tmp_path / name).inputs["pixel_values"] for name in ("turned.png", "upright.png"))
    np.testing.assert_array_equal(turned, upright)


def test_published_is_what_transformers_loads(tmp_path: Path) -> None:
    published = processor(image_mean=[0.1, 0.2, 0.3]).published()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(published))
    loaded = json.loads(SiglipImageProcessorPil.from_pretrained(tmp_path).to_json_string())
    assert {key: loaded[key] for key in published} == published


def test_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.png: no such image"):
        processor()(tmp_path / "none.png")


def test_a_folder_in_place_of_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read this image"):
        processor()(tmp_path)


@pytest.mark.parametrize("name", ["photo.jpg", "rgb.png"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_image(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    IMAGES[name](path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=f"{name}: (cannot read this image, is it truncated|not an image)"):
        processor()(path)


@pytest.mark.parametrize("content", [b"", b"hello, I am no image"])
def test_a_file_that_is_no_image(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(DataError, match=r"text.png: not an image"):
        processor()(tmp_path / "text.png")


def test_channels_other_than_three_are_refused() -> None:
    with pytest.raises(DataError, match="num_channels is 1, but images are opened as RGB"):
        processor(num_channels=1)


def test_means_and_deviations_are_three_and_nothing_is_divided_by_zero() -> None:
    for changes in ({"image_mean": [0.5]}, {"image_std": [0.5] * 4}):
        with pytest.raises(ValidationError, match=r"given were [14] of them; expected three numbers, of red, green and blue"):
            processor(**changes)
    with pytest.raises(ValidationError, match=r"greater than 0"):
        processor(image_std=[0.5, 0.0, 0.5])


# ------------------------------------------------------------------------------------------------------------ distortion


def distorted(path: Path, *, seed: int = 0, progress: float = 1.0, size: int = 8, **settings: float) -> np.ndarray:
    augmentation = Augmentation(np.random.default_rng(seed), progress, Distortion(**settings))
    return processor(size)(path, augmentation).inputs["pixel_values"]


NO_STRETCH = np.ones(2, dtype=np.float32)


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    Image.fromarray(noise(8, 8)).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def test_a_shift_by_whole_pixels_repeats_the_border(digit: Path) -> None:
    plain = processor(8)(digit).inputs["pixel_values"]
    moved = distort(plain, NO_STRETCH, np.array([2 / 8, -2 / 8], dtype=np.float32))  # down, left
    expected = np.pad(plain, ((0, 0), (0, 0), (2, 0), (0, 2)), mode="edge")[:, :, :8, 2:]
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_a_shift_by_half_a_pixel_is_bilinear(digit: Path) -> None:
    plain = processor(8)(digit).inputs["pixel_values"]
    moved = distort(plain, NO_STRETCH, np.array([0, 0.5 / 8], dtype=np.float32))
    np.testing.assert_allclose(moved[..., 1:], (plain[..., 1:] + plain[..., :-1]) / 2, atol=1e-6)


def test_a_stretch_is_about_the_centre() -> None:
    """On a slope, whose values are positions, a stretch of columns is a gentler slope, and the middle stays where it is."""
    slope = np.tile(np.arange(8, dtype=np.float32), (1, 3, 8, 1))
    stretched = distort(slope, np.array([1, 1.25], dtype=np.float32), np.zeros(2, dtype=np.float32))
    np.testing.assert_allclose(stretched - 3.5, (slope - 3.5) / 1.25, atol=1e-6)


def test_strength_rises_over_the_ramp(digit: Path) -> None:
    plain = processor(8)(digit).inputs["pixel_values"]
    settings = {"translate": 0.0875, "stretch": 0.15, "ramp": 0.5}

    def change(progress: float, **other: float) -> float:
        return float(np.abs(distorted(digit, progress=progress, **{**settings, **other}) - plain).mean())

    assert change(0.0) == 0
    assert 0 < change(0.1) < change(0.3) < change(0.5)
    assert change(0.5) == change(1.0) == change(0.0, ramp=0.0)


def test_distortion_belongs_to_its_random_numbers(digit: Path) -> None:
    settings = {"translate": 0.0875, "stretch": 0.15}
    np.testing.assert_array_equal(distorted(digit, seed=1, **settings), distorted(digit, seed=1, **settings))
    assert not np.array_equal(distorted(digit, seed=1, **settings), distorted(digit, seed=2, **settings))


def test_a_distorted_image_does_not_change_the_next(digit: Path) -> None:
    ours = processor(8)
    before = ours(digit).inputs["pixel_values"].copy()
    ours(digit, Augmentation(np.random.default_rng(0), 1.0, Distortion(translate=0.2)))
    np.testing.assert_array_equal(ours(digit).inputs["pixel_values"], before)
    with pytest.raises(ValueError, match="read-only"):
        ours(digit).inputs["pixel_values"][0] = 0
