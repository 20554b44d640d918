"""Files become what transformers' own processors make of them, where those run without torchvision and torchaudio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from loongforge_hf.hf_encoder.config import HfEncoderConfig
from loongforge_hf.hf_encoder.processor import HfProcessor
from PIL import Image
from scipy.io import wavfile
from transformers.image_utils import load_image

from loongforge_core.errors import DataError

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CROPPED = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3, **IMAGENET}

# As the published folders' preprocessor_config.json says; DINOv3's own class needs torchvision, whose filter rounds otherwise.
PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessorPil", {}),
    "deit": ("DeiTImageProcessorPil", IMAGENET),
    "beit": ("BeitImageProcessorPil", {}),
    "dinov2": ("BitImageProcessorPil", CROPPED),
    "dinov2_with_registers": ("BitImageProcessorPil", CROPPED),
    "dinov3_vit": ("ViTImageProcessorPil", IMAGENET),
    "ijepa": ("ViTImageProcessorPil", IMAGENET),
    "siglip": ("SiglipImageProcessorPil", {"resample": 2}),
    "convnextv2": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 224}, **IMAGENET}),
    "swin": ("ViTImageProcessorPil", {"resample": 3, **IMAGENET}),
}
SOUNDS: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(("wav2vec2", "hubert", "data2vec_audio"), ("Wav2Vec2FeatureExtractor", {})),
    "wavlm": ("Wav2Vec2FeatureExtractor", {"do_normalize": False}),
    "wav2vec2_bert": ("SeamlessM4TFeatureExtractor", {}),
    "ast": ("ASTFeatureExtractor", {}),
}


def picture(folder: Path, *shape: int) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(folder / "picture.png")
    return folder / "picture.png"


def sound(folder: Path, samples: int, rate: int = 16_000) -> tuple[Path, np.ndarray]:
    """A WAV file, and its samples from -1 to 1."""
    values = (np.random.default_rng(0).standard_normal(samples) * 3000).astype(np.int16)
    wavfile.write(folder / "sound.wav", rate, values)
    return folder / "sound.wav", (values / 32768).astype(np.float32)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_equal_transformers(name: str, tmp_path: Path) -> None:
    """Bit for bit, upright and wide ones."""
    class_name, settings = PICTURES[name]
    ours, reference = HfProcessor(HfEncoderConfig(name=name), "image"), getattr(transformers, class_name)(**settings)
    for shape in ((75, 53, 3), (31, 90, 3)):
        path = picture(tmp_path, *shape)
        item = ours(path)
        assert item.size == (224, 224) == ours.config.fixed_item_size
        np.testing.assert_array_equal(
            item.inputs["pixel_values"], reference(load_image(str(path)), return_tensors="np")["pixel_values"], strict=True
        )


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_equal_transformers(name: str, tmp_path: Path) -> None:
    class_name, settings = SOUNDS[name]
    config, reference = HfEncoderConfig(name=name), getattr(transformers, class_name)(**settings)
    for samples in (16_077, 8_000):
        path, values = sound(tmp_path, samples)
        item = HfProcessor(config, "audio")(path)
        (given,) = item.inputs.values()
        theirs = reference(values, sampling_rate=16_000, return_tensors="np", padding=True)[config.architecture.input_name][0]
        assert len(given) == config.num_rows(item.size) and given.dtype == np.float32
        np.testing.assert_allclose(given, theirs[: len(given)], atol=1e-4)


def test_settings_of_processing_are_used(tmp_path: Path) -> None:
    config = HfEncoderConfig(name="dinov2", image_size=28, fit="squash", resize_to=40, resample="bilinear", image_mean=[0.0, 0.0, 0.0])
    reference = transformers.DeiTImageProcessorPil(
        size={"height": 40, "width": 40},
        crop_size={"height": 28, "width": 28},
        resample=2,
        image_mean=[0, 0, 0],
        image_std=[0.229, 0.224, 0.225],
    )
    path = picture(tmp_path, 33, 60, 3)
    theirs = reference(load_image(str(path)), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(HfProcessor(config, "image")(path).inputs["pixel_values"], theirs)


def test_another_rate_and_two_channels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((8_000, 2)).astype(np.float32)
    wavfile.write(tmp_path / "sound.wav", 8_000, values)
    item = HfProcessor(HfEncoderConfig(name="wavlm"), "audio")(tmp_path / "sound.wav")
    assert item.size == (16_000,) and item.inputs["input_values"].shape == (16_000,)
    np.testing.assert_allclose(item.inputs["input_values"][200:-200:2], values.mean(1)[100:-100], atol=0.4)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    (tmp_path / "no.wav").write_bytes(b"RIFF" + b"0" * 40)
    sees, hears = HfProcessor(HfEncoderConfig(name="vit"), "image"), HfProcessor(HfEncoderConfig(name="hubert", max_seconds=1.0), "audio")
    for opened, name, message in (
        (sees, "absent.png", "no such image"),
        (sees, "no.png", "no.png: "),
        (sees, "no.wav", "not an image"),
        (hears, "absent.wav", "no such sound"),
        (hears, "no.wav", "cannot read this sound"),
    ):
        with pytest.raises(DataError, match=message):
            opened(tmp_path / name)
    with pytest.raises(DataError, match=r"1.06 seconds of sound, but at most 1 are taken \(max_seconds\)"):
        hears(sound(tmp_path, 17_000)[0])
    with pytest.raises(DataError, match=r"sound.wav: a sound of 399 samples is too short for the convolutions: expected 400 at least"):
        hears(sound(tmp_path, 399)[0])
    with pytest.raises(DataError, match=r"1025 frames of sound, but ast takes 1024 \(config.max_length\)"):
        HfProcessor(HfEncoderConfig(name="ast"), "audio")(sound(tmp_path, 1024 * 160 + 400)[0])


def test_of_sixteen_bits_of_grey_the_upper_eight_are_seen(tmp_path: Path) -> None:
    upper = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(upper).save(tmp_path / "eight.png")
    Image.fromarray(upper.astype(np.uint16) * 256 + 99).save(tmp_path / "sixteen.png")
    sees = HfProcessor(HfEncoderConfig(name="vit"), "image")
    eight, sixteen = (sees(tmp_path / f"{name}.png").inputs["pixel_values"] for name in ("eight", "sixteen"))
    np.testing.assert_array_equal(eight, sixteen)


def test_a_picture_that_would_fill_all_memory_is_refused(tmp_path: Path) -> None:
    path = picture(tmp_path, 1, 30_000, 3)
    with pytest.raises(DataError, match=r"picture.png: 1 x 30000 pixels are too elongated: .* 1,966,080,000, and at most 268,435,456"):
        HfProcessor(HfEncoderConfig(name="dinov2"), "image")(path)
