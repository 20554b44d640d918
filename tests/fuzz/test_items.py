"""Images and sounds of every kind, whole and damaged: opened, or refused by a DataError that names the file, soon, in little memory."""

from __future__ import annotations

import io
import random
import resource
import struct
import time
import wave
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import damaged
from PIL import Image
from scipy.io import wavfile

from loongforge_core.component import ProcessedItem, Processor
from loongforge_core.errors import DataError
from loongforge_core.media.images import open_rgb
from loongforge_core.media.sounds import read_wav
from loongforge_core.registry.registry import Registry

SECONDS = 5
RATE = 16_000
SIDES = (23, 31)

FIXED = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 1, "image_size": 28, "patch_size": 14}
NATIVE = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 1, "patch_size": 14, "window_size": 112}
PROCESSORS = {
    "siglip": FIXED,
    "clip": FIXED,
    "intern_vit": FIXED,
    "qwen2_5_vl": {**NATIVE, "fullatt_block_indexes": [0]},
}


def processor(name: str) -> Processor[Any]:
    registry = Registry.discover()
    spec = registry.component("encoder", name)
    config = registry.load(spec, "config").model_validate(PROCESSORS[name])
    made: Processor[Any] = registry.load(spec, "processor")(config, "image")
    return made


@pytest.fixture(scope="module", params=PROCESSORS)
def images(request: pytest.FixtureRequest) -> Processor[Any]:
    return processor(request.param)


def opened(items: Processor[Any], path: Path) -> ProcessedItem | None:
    """The item with as many tokens as its config says there are; None where it is refused as it should be."""
    begin = time.process_time()
    try:
        item = items(path)
        items.config.token_grid(item.size)
    except DataError as error:
        assert str(path) in str(error)
        return None
    except ValueError:  # of the size alone: what collects samples says which file it was
        return None
    finally:
        assert time.process_time() - begin < SECONDS
    assert all(np.isfinite(array).all() for array in item.inputs.values())
    return item


def picture(mode: str = "RGB", sides: tuple[int, int] = SIDES, seed: int = 0) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (*sides, 4), dtype=np.uint8)
    return Image.fromarray(colours, "RGBA").convert(mode) if mode != "I;16" else Image.fromarray(colours[..., 0].astype(np.uint16) * 257)


def encoded(image: Image.Image, kind: str, **more: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def rotated(mark: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = mark
    return encoded(picture(), "JPEG", exif=exif, quality=95)


def frames(kind: str) -> bytes:
    return encoded(picture(), kind, save_all=True, append_images=[picture(seed=seed) for seed in (1, 2)], duration=40)


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """Whatever its header says; `rows` are compressed."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def deep(width: int, height: int) -> bytes:
    """Sixteen bits of each colour."""
    colours = np.random.default_rng(0).integers(0, 65536, (height, width * 3)).astype(">u2")
    return png(width, height, 16, 2, b"".join(b"\0" + row.tobytes() for row in colours))


IMAGES: dict[str, Callable[[], bytes]] = {
    **{mode: lambda mode=mode: encoded(picture(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    **{kind: lambda kind=kind: encoded(picture(), kind) for kind in ("JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")},
    "CMYK": lambda: encoded(picture("CMYK"), "JPEG"),
    "YCbCr": lambda: encoded(picture("YCbCr"), "JPEG"),
    "progressive": lambda: encoded(picture(), "JPEG", progressive=True),
    "palette with a transparent colour": lambda: encoded(picture("P"), "PNG", transparency=3),
    "16 bits of each colour": lambda: deep(*SIDES),
    "animated GIF": lambda: frames("GIF"),
    "animated PNG": lambda: frames("PNG"),
    "animated WebP": lambda: frames("WEBP"),
    **{f"mark {mark}": lambda mark=mark: rotated(mark) for mark in range(1, 9)},
    "a mark that there is not": lambda: rotated(99),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_every_kind_of_image_is_opened(kind: str, images: Processor[Any], tmp_path: Path) -> None:
    """By what is in it, whatever its name ends with."""
    file = tmp_path / "some.txt"
    file.write_bytes(IMAGES[kind]())
    assert opened(images, file) is not None


@pytest.mark.parametrize("sides", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_images_of_extreme_shapes(sides: tuple[int, int], images: Processor[Any], tmp_path: Path) -> None:
    file = tmp_path / "some.png"
    picture(sides=sides).save(file)
    opened(images, file)


def test_a_rotation_mark_is_obeyed_as_transformers_does(tmp_path: Path) -> None:
    from transformers.image_utils import load_image

    for mark in range(1, 9):
        file = tmp_path / f"{mark}.jpg"
        file.write_bytes(rotated(mark))
        assert open_rgb(file).size == (SIDES if mark >= 5 else SIDES[::-1])
        np.testing.assert_array_equal(np.asarray(open_rgb(file)), np.asarray(load_image(str(file))))


def test_of_an_animation_the_first_frame_is_seen(tmp_path: Path) -> None:
    for kind in ("GIF", "PNG"):
        (tmp_path / "moving").write_bytes(frames(kind))
        (tmp_path / "still").write_bytes(encoded(picture(), kind))
        np.testing.assert_array_equal(np.asarray(open_rgb(tmp_path / "moving")), np.asarray(open_rgb(tmp_path / "still")))


BOMBS = {
    "a header of ten billion pixels": lambda: png(100_000, 100_000, 8, 2, b""),
    "a row of two billion": lambda: png(2**31 - 1, 1, 8, 0, b""),
    "ninety million pixels of one colour": lambda: png(9500, 9500, 8, 0, bytes(9501 * 9500)),
    "a bitmap of billions": lambda: encoded(picture(), "BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + bytes(100),
    "a GIF of billions": lambda: b"GIF89a" + struct.pack("<HH", 65535, 65535) + encoded(picture("P"), "GIF")[10:],
}


@pytest.mark.parametrize("kind", BOMBS)
def test_an_image_bomb_ends_early_and_takes_no_memory(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(BOMBS[kind]())
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError, match=str(file)):
        open_rgb(file)
    assert time.process_time() - begin < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes more than before"


def test_a_damaged_image_is_opened_or_refused(seeds: range, tmp_path: Path) -> None:
    """Where a byte of a colour is another one, nobody can know."""
    whole = {kind: make() for kind, make in IMAGES.items()}
    processors = [processor(name) for name in PROCESSORS]
    for seed in seeds:
        draw = random.Random(seed)
        content = whole[draw.choice(sorted(whole))]
        for _ in range(draw.choice((1, 1, 3, 10))):
            content = damaged(content, draw)
        file = tmp_path / "some.png"
        file.write_bytes(content)
        opened(draw.choice(processors), file)


# ----------------------------------------------------------------------------------------------------------------------- sounds


def tone(dtype: type[np.generic] = np.int16, channels: int = 1, rate: int = RATE, length: int = 800) -> bytes:
    values = 0.5 * np.sin(np.arange(length * channels).reshape(length, channels))
    if np.dtype(dtype).kind == "i":
        values = values * np.iinfo(dtype).max
    if np.dtype(dtype).kind == "u":
        values = values * 127 + 128
    stream = io.BytesIO()
    wavfile.write(stream, rate, values.astype(dtype))
    return stream.getvalue()


def of_24_bits() -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((2, 3, RATE, 0, "NONE", ""))
        file.writeframes(bytes(range(240)) * 10)
    return stream.getvalue()


def mu_law() -> bytes:
    """Format 7, which nothing here decodes."""
    return tone(np.uint8).replace(struct.pack("<HH", 1, 1), struct.pack("<HH", 7, 1), 1)


SOUNDS: dict[str, Callable[[], bytes]] = {
    "8 bits": lambda: tone(np.uint8),
    "16 bits": tone,
    "24 bits": of_24_bits,
    "32 bits": lambda: tone(np.int32),
    "float": lambda: tone(np.float32),
    "double": lambda: tone(np.float64),
    "five channels": lambda: tone(channels=5),
    "another rate": lambda: tone(rate=44_100),
}


def heard(path: Path) -> np.ndarray | None:
    begin = time.process_time()
    try:
        samples = read_wav(path, RATE)
    except DataError as error:
        assert str(path) in str(error)
        return None
    finally:
        assert time.process_time() - begin < SECONDS
    assert samples.ndim == 1 and np.isfinite(samples).all()
    return samples


def test_every_kind_of_sound(tmp_path: Path) -> None:
    for kind, make in SOUNDS.items():
        (tmp_path / kind).write_bytes(make())
        assert heard(tmp_path / kind) is not None, kind
    (tmp_path / "mu-law").write_bytes(mu_law())
    with pytest.raises(DataError, match="mu-law"):
        read_wav(tmp_path / "mu-law", RATE)


@pytest.mark.parametrize(("at", "value"), [(22, 65535), (40, 2**32 - 1), (4, 2**32 - 1), (32, 1), (34, 0), (34, 64), (16, 2**31)])
def test_a_header_that_lies_costs_nothing(at: int, value: int, tmp_path: Path) -> None:
    content = bytearray(tone())
    form = "<H" if at in (22, 32, 34) else "<I"
    struct.pack_into(form, content, at, value)
    (tmp_path / "lies.wav").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    heard(tmp_path / "lies.wav")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes more than before"


def test_a_sound_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(tone()[:40] + struct.pack("<I", 2**31))
        file.truncate(2**31 + 44)
    with pytest.raises(DataError, match=r"long.wav: a sound of 2,147,483,692 bytes; expected at most"):
        read_wav(tmp_path / "long.wav", RATE)


def test_a_damaged_sound_is_opened_or_refused(seeds: range, tmp_path: Path) -> None:
    whole = {kind: make() for kind, make in SOUNDS.items()}
    for seed in seeds:
        draw = random.Random(seed)
        content = whole[draw.choice(sorted(whole))]
        for _ in range(draw.choice((1, 1, 3, 10))):
            # Of the header more than of the sound: in that, nobody can know what is damage.
            content = damaged(content[:44], draw) + content[44:] if draw.random() < 0.7 else damaged(content, draw)
        file = tmp_path / "some.wav"
        file.write_bytes(content)
        heard(file)
