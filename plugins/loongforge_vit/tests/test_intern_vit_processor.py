"""Images become the tiles that transformers' processor cuts them into; a video's frames a tile each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from loongforge_vit.intern_vit.config import InternVitConfig
from loongforge_vit.intern_vit.processor import InternVitProcessor
from pictures import IMAGES, noise
from PIL import Image
from pydantic import ValidationError
from transformers import GotOcr2ImageProcessorPil
from transformers.image_utils import load_image

from loongforge_core.errors import DataError

TILE = 14


def processor(**changes: object) -> InternVitProcessor:
    return InternVitProcessor(InternVitConfig(image_size=TILE, patch_size=2, **changes))  # type: ignore[arg-type]


def published(ours: InternVitProcessor) -> GotOcr2ImageProcessorPil:
    return GotOcr2ImageProcessorPil(**{key: value for key, value in ours.published().items() if key != "image_processor_type"})


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("tiles", [(1, 12), (2, 6), (1, 1)], ids=str)
def test_equals_transformers(name: str, tiles: tuple[int, int], tmp_path: Path) -> None:
    """InternVL's folders name the processor of GOT-OCR 2."""
    path = tmp_path / name
    IMAGES[name](path)
    ours = processor(min_tiles=tiles[0], max_tiles=tiles[1])
    item, theirs = ours(path), published(ours)(load_image(str(path)), return_tensors="np")
    assert item.size == (int(theirs["num_patches"][0]),)
    assert item.inputs["pixel_values"].dtype == np.float32
    np.testing.assert_array_equal(item.inputs["pixel_values"], theirs["pixel_values"])


def test_tiles_are_counted_from_pixels(tmp_path: Path) -> None:
    """1,000 images of random sizes are cut into as many tiles as the config says, which are those of the published processor."""
    ours = processor(max_tiles=6)
    theirs = published(ours)
    random = np.random.default_rng(0)
    numbers = set()
    for index in range(1000):
        height, width = (int(2 ** random.uniform(0, 7)) for _ in range(2))
        expected = ours.config.num_tiles(height, width)
        assert expected == theirs.get_number_of_image_patches(height, width)
        if index % 10 == 0:
            Image.fromarray(noise(height, width, 3)).save(tmp_path / "image.png")
            item = ours(tmp_path / "image.png")
            assert item.size == (expected,) == item.inputs["pixel_values"].shape[:1]
        numbers.add(expected)
    assert numbers == {1, 3, 4, 5, 6, 7}


@pytest.mark.parametrize(
    ("height", "width", "tiling"),
    [(15, 15, (1, 1)), (20, 20, (2, 2)), (40, 40, (3, 3)), (10, 20, (1, 2)), (30, 10, (3, 1)), (90, 30, (6, 2)), (1, 99, (1, 12))],
)
def test_tiling(height: int, width: int, tiling: tuple[int, int]) -> None:
    """Rows and columns; of a square, more tiles where the image has more than half of their pixels."""
    assert processor().config.tiling(height, width) == tiling


def test_without_a_thumbnail(tmp_path: Path) -> None:
    Image.fromarray(noise(14, 28, 3)).save(tmp_path / "image.png")
    whole, bare = processor(), processor(use_thumbnail=False)
    pixels = bare(tmp_path / "image.png").inputs["pixel_values"]
    assert bare(tmp_path / "image.png").size == (2,) == (bare.config.num_tiles(14, 28),)
    np.testing.assert_array_equal(pixels, whole(tmp_path / "image.png").inputs["pixel_values"][:2])
    assert not bare.published(), "transformers has no such processor"


def test_the_config_of_single_tiles_counts_them() -> None:
    assert processor(max_tiles=1).config.fixed_item_size == (1,)
    assert processor(max_tiles=2).config.fixed_item_size is None


def test_the_largest_image_has_the_most_tiles() -> None:
    config = processor(max_tiles=11).config
    assert config.largest_item_size("image") == (12,), "ten or eleven in a row, and the thumbnail"
    assert max(config.num_tiles(height, width) for height in range(1, 200, 3) for width in range(1, 200, 3)) == 12
    assert processor(max_tiles=1).config.largest_item_size("image") == (1,)
    assert config.largest_item_size("video") is None


def test_published_is_what_transformers_loads(tmp_path: Path) -> None:
    given = processor(image_mean=[0.1, 0.2, 0.3]).published()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    loaded = json.loads(GotOcr2ImageProcessorPil.from_pretrained(tmp_path).to_json_string())
    assert {key: loaded[key] for key in given} == given


def test_tiles_that_no_image_can_have() -> None:
    with pytest.raises(ValidationError, match="min_tiles 3 is above max_tiles 2"):
        InternVitConfig(min_tiles=3, max_tiles=2)


def test_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.png: no such image"):
        processor()(tmp_path / "none.png")


def test_a_video_s_frames_are_a_tile_each(tmp_path: Path) -> None:
    """As transformers' processor sees an image that it does not cut."""
    (tmp_path / "film").mkdir()
    files = [tmp_path / "film" / f"{frame}.png" for frame in range(3)]
    for file in files:
        Image.fromarray(noise(20, 30, 3)).save(file)
    (tmp_path / "film.json").write_text(json.dumps({"frames": ["film/2.png"], "fps": 1}))
    ours = InternVitProcessor(processor().config, "video")
    theirs = published(processor(max_tiles=1))([load_image(str(file)) for file in files], return_tensors="np")["pixel_values"]
    for path, expected in ((tmp_path / "film", theirs), (tmp_path / "film.json", theirs[2:])):
        item = ours(path)
        assert item.size == (len(expected),)
        np.testing.assert_array_equal(item.inputs["pixel_values"], expected)
