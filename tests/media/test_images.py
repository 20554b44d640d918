"""Images of every kind, opened: what they show, and what is refused because nobody could say."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from loongforge_core.errors import DataError
from loongforge_core.media.images import middle, normalised, open_rgb, with_shorter_side


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


UPPER, LOWER = noise(20, 30), noise(20, 30, seed=1)
WIDE = UPPER.astype(np.uint16) * 256 + LOWER


def seen(path: Path) -> np.ndarray:
    return np.asarray(open_rgb(path))


def saved_tiff(path: Path, values: bytes, *, width: int, bits: int, zero_is: int) -> None:
    """One row of greys, as a scanner or a camera with fewer or other bits than Pillow writes would have it."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: zero_is, 273: 8, 277: 1, 278: 1, 279: len(values)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(values)) + values + struct.pack("<H", len(tags)) + entries + bytes(4))


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.jp2", "grey.pgm"])
def test_of_sixteen_bits_of_grey_the_upper_eight_are_seen(name: str, tmp_path: Path) -> None:
    """The same as of the same image saved with eight."""
    Image.fromarray(WIDE.astype(np.int32) if name.endswith(".pgm") else WIDE).save(tmp_path / name)
    Image.fromarray(UPPER).save(tmp_path / "eight.png")
    np.testing.assert_array_equal(seen(tmp_path / name), np.asarray(load_image(str(tmp_path / "eight.png"))))


def test_big_endian_greys(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (30, 20), WIDE.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    np.testing.assert_array_equal(seen(tmp_path / "big.tif")[..., 1], UPPER)


def test_white_is_what_a_file_says(tmp_path: Path) -> None:
    """4095 in a TIFF of twelve bits, 1023 in a PGM that names it."""
    twelve = "".join(f"{value:012b}" for value in (0, 4095, 2048, 16))
    saved_tiff(tmp_path / "twelve.tif", int(twelve, 2).to_bytes(6, "big"), width=4, bits=12, zero_is=1)
    assert seen(tmp_path / "twelve.tif")[0, :, 0].tolist() == [0, 255, 128, 1]
    (tmp_path / "ten.pgm").write_bytes(b"P5 3 1 1023\n" + struct.pack(">HHH", 0, 1023, 512))
    assert seen(tmp_path / "ten.pgm")[0, :, 2].tolist() == [0, 255, 128]


def test_wide_greys_are_turned_upright_and_their_transparency_is_white(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(WIDE).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(seen(tmp_path / "turned.png")[..., 0], np.rot90(UPPER, -1))
    one = int(WIDE[3, 4])
    Image.fromarray(WIDE).save(tmp_path / "transparent.png", transparency=one)
    expected = np.where(one == WIDE, 255, UPPER)
    assert expected[3, 4] != UPPER[3, 4]
    np.testing.assert_array_equal(seen(tmp_path / "transparent.png")[..., 0], expected)


def test_greys_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(WIDE.astype(np.int32)).save(tmp_path / "integers.tif")
    Image.fromarray(WIDE.astype(np.float32) / 65535).save(tmp_path / "fractions.tif")
    saved_tiff(tmp_path / "negative.tif", WIDE[0, :2].tobytes(), width=2, bits=16, zero_is=0)
    for name, kind in (("integers", "integers"), ("fractions", "fractions"), ("negative", "integers")):
        with pytest.raises(
            DataError, match=f"{name}.tif: the greys of this TIFF are {kind} that do not say which is white; expected .* PNG"
        ):
            open_rgb(tmp_path / f"{name}.tif")


def test_damage_where_pillow_expects_none_is_told_by_name(tmp_path: Path) -> None:
    """A photo's width that is text, a strip of a TIFF that begins at a fraction."""
    header = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2)
    tags = struct.pack(">HHII", 0x0100, 2, 6, 38) + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    Image.fromarray(UPPER).save(tmp_path / "photo.jpg", exif=header + tags + bytes(4) + b"maker\0")
    saved_tiff(tmp_path / "strip.tif", WIDE[0, :2].tobytes(), width=2, bits=16, zero_is=1)
    content = (tmp_path / "strip.tif").read_bytes()
    (tmp_path / "strip.tif").write_bytes(content.replace(struct.pack("<HH", 273, 3), struct.pack("<HH", 273, 5)))
    for name in ("photo.jpg", "strip.tif"):
        with pytest.raises(DataError, match=f"{name}: cannot read this image"):
            open_rgb(tmp_path / name)


@pytest.mark.parametrize("kind", ["LA", "RGBA", "palette", "one colour"])
def test_transparency_is_laid_over_white(kind: str, tmp_path: Path) -> None:
    """However a file has it."""
    colours = {"LA": noise(8, 9, 2), "RGBA": noise(8, 9, 4)}.get(kind, noise(8, 9, 3))
    image, more = Image.fromarray(colours), {}
    if kind == "palette":
        image, more = image.quantize(8), {"transparency": bytes([0, 128, 255])}
    if kind == "one colour":
        more = {"transparency": tuple(map(int, colours[2, 3]))}
    image.save(tmp_path / "some.png", **more)
    with Image.open(tmp_path / "some.png") as file:
        rgba = np.asarray(file.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    assert alpha.min() < 1
    np.testing.assert_allclose(seen(tmp_path / "some.png"), rgba[..., :3] * alpha + 255 * (1 - alpha), atol=1)


@pytest.mark.parametrize("sides", [(40, 20), (20, 40)])
def test_the_middle_of_a_resized_image_is_normalised_colour_by_colour(sides: tuple[int, int]) -> None:
    """A red field in blue, half as long as the image: of it alone the square is cut out."""
    image = Image.new("RGB", sides, "blue")
    width, height = sides
    image.paste("red", (width // 4, height // 4, width - width // 4, height - height // 4))
    resized = with_shorter_side(image, 80, Image.Resampling.NEAREST)
    assert sorted(resized.size) == [80, 160] and (resized.width > resized.height) == (width > height)
    pixels = normalised(middle(resized, 40), mean=[0.5, 0.25, 0.0], std=[0.5, 0.5, 0.25])
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.float32([1, -0.5, 0])[:, None, None], (3, 40, 40)))


def test_a_line_that_would_fill_all_memory_is_not_resized() -> None:
    with pytest.raises(ValueError, match=r"1 x 30000 pixels are too elongated: .* 3,386,880,000, and at most 268,435,456"):
        with_shorter_side(Image.new("RGB", (30_000, 1)), 336, Image.Resampling.BICUBIC)
