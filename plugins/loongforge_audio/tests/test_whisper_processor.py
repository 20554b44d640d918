"""Sounds become the frames that transformers makes of them, and what is no sound is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from loongforge_audio.qwen2_audio.config import Qwen2AudioConfig
from loongforge_audio.wav import read_wav
from loongforge_audio.whisper.config import WhisperConfig
from loongforge_audio.whisper.processor import RATE, WhisperProcessor
from scipy.io import wavfile
from transformers import AutoFeatureExtractor, WhisperFeatureExtractor

from loongforge_core.errors import DataError

SECONDS = 2


def processor(num_mel_bins: int = 80, *, config: type[WhisperConfig] = Qwen2AudioConfig, seconds: float = SECONDS) -> WhisperProcessor:
    return WhisperProcessor(config(num_mel_bins=num_mel_bins, max_source_positions=round(seconds * 50)))


def sound(length: int, *, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A falling tone under noise, -1 to 1."""
    times = np.arange(length) / rate
    noise = np.random.default_rng(seed).normal(size=length)
    return 0.6 * np.sin(2 * np.pi * (900 * times - 200 * times**2)) * np.exp(-times) + 0.02 * noise


def written(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    wavfile.write(path, rate, samples)
    return path


def reference(samples: np.ndarray, num_mel_bins: int, *, numpy_only: bool) -> tuple[np.ndarray, int]:
    """Frames `[F, M]` of the padded sound, and how many are its own."""
    extractor = WhisperFeatureExtractor(feature_size=num_mel_bins, chunk_length=SECONDS)
    made = extractor(samples, sampling_rate=RATE, return_attention_mask=True, return_tensors="np")
    features = made["input_features"][0]
    if numpy_only:
        padded = np.pad(samples, (0, SECONDS * RATE - len(samples)))[None]
        features = extractor._np_extract_fbank_features(padded.astype(np.float32), "cpu")[0]
    return features.T, int(made["attention_mask"].sum())


LENGTHS = (481, 4000, 16_000, 16_161, 31_600, 31_839, 31_840, 31_999, 32_000)
"""Near the end windows see the mirror image of the padded sound."""


@pytest.mark.parametrize("num_mel_bins", [80, 128])
@pytest.mark.parametrize("numpy_only", [True, False], ids=["numpy", "torch"])
def test_equals_transformers(num_mel_bins: int, numpy_only: bool, tmp_path: Path) -> None:
    for length in LENGTHS:
        samples = sound(length).astype(np.float32)
        path = written(tmp_path / "one.wav", samples)
        expected, frames = reference(samples, num_mel_bins, numpy_only=numpy_only)
        own = processor(num_mel_bins)(path)
        assert own.size == (frames,)
        rows = own.inputs["input_features"]
        assert rows.dtype == np.float32 and len(rows) == min(frames + 2, SECONDS * 100)
        np.testing.assert_allclose(rows, expected[: len(rows)], atol=1e-4, rtol=0)
        whole = processor(num_mel_bins, config=WhisperConfig)(path)
        assert whole.size == (SECONDS * 100,)
        np.testing.assert_allclose(whole.inputs["input_features"], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("level", [0.0, 1e-7, 1e-3])
def test_silence_and_what_is_close_to_it(level: float, tmp_path: Path) -> None:
    samples = (level * sound(5000)).astype(np.float32)
    expected, frames = reference(samples, 80, numpy_only=True)
    rows = processor()(written(tmp_path / "quiet.wav", samples)).inputs["input_features"]
    np.testing.assert_allclose(rows, expected[: frames + 2], atol=1e-4, rtol=0)


FORMATS = {
    "8 bits": (lambda samples: np.round(samples * 128 + 128).clip(0, 255).astype(np.uint8), 1 / 128),
    "16 bits": (lambda samples: np.round(samples * 32767).astype(np.int16), 1e-4),
    "32 bits": (lambda samples: np.round(samples * (2**31 - 1)).astype(np.int32), 1e-6),
    "float": (lambda samples: samples.astype(np.float32), 1e-6),
    "double": (lambda samples: samples, 1e-12),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_differ_by_their_rounding_alone(name: str, tmp_path: Path) -> None:
    made, tolerance = FORMATS[name]
    samples = sound(3000)
    path = written(tmp_path / "one.wav", made(samples))
    np.testing.assert_allclose(read_wav(path, RATE), samples, atol=tolerance, rtol=0)


def test_24_bits(tmp_path: Path) -> None:
    samples = sound(3000)
    numbers = np.round(samples * (2**23 - 1)).astype("<i4")
    with wave.open(str(tmp_path / "one.wav"), "wb") as file:
        file.setparams((1, 3, RATE, 0, "NONE", ""))
        file.writeframes(numbers.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    np.testing.assert_allclose(read_wav(tmp_path / "one.wav", RATE), samples, atol=1e-6, rtol=0)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = sound(3000).astype(np.float32), sound(3000, seed=1).astype(np.float32)
    both = processor()(written(tmp_path / "both.wav", np.stack([left, right], axis=1)))
    mean = processor()(written(tmp_path / "mean.wav", (left + right) / 2))
    np.testing.assert_allclose(both.inputs["input_features"], mean.inputs["input_features"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_sound_the_same(rate: int, tmp_path: Path) -> None:
    """A tone far below half of either rate comes out as the same tone; at the ends the filter sees nothing beyond."""
    made = {each: 0.5 * np.sin(2 * np.pi * 440 * np.arange(each) / each) for each in (rate, RATE)}
    found = read_wav(written(tmp_path / "one.wav", made[rate], rate), RATE)
    assert len(found) == RATE
    np.testing.assert_allclose(found[200:-200], made[RATE][200:-200], atol=2e-3, rtol=0)


def test_published_is_what_transformers_loads(tmp_path: Path) -> None:
    for config in (WhisperConfig, Qwen2AudioConfig):
        published = processor(128, config=config, seconds=30).published()
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(published))
        extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
        assert isinstance(extractor, WhisperFeatureExtractor)
        loaded = json.loads(extractor.to_json_string())
        assert {key: loaded[key] for key in published} == published
        assert loaded.keys() - published.keys() == {"dither"}
    assert not processor(seconds=1.5).published()


def test_a_short_sound_is_opened_once_and_cannot_be_written_to(tmp_path: Path) -> None:
    ours = processor()
    paths = {seconds: written(tmp_path / f"{seconds}.wav", sound(round(seconds * RATE))) for seconds in (0.5, 1.5)}
    first = {seconds: ours(path).inputs["input_features"] for seconds, path in paths.items()}
    for path in paths.values():
        written(path, sound(round(0.25 * RATE)))
    again = {seconds: ours(path).inputs["input_features"] for seconds, path in paths.items()}
    assert again[0.5] is first[0.5] and len(again[1.5]) < len(first[1.5])
    with pytest.raises(ValueError, match="read-only"):
        again[0.5][0] = 0


def test_a_preview_shows_high_notes_above_low_ones(tmp_path: Path) -> None:
    times = np.arange(RATE) / RATE
    falling = np.where(times < 0.5, np.sin(2 * np.pi * 3000 * times), np.sin(2 * np.pi * 300 * times))
    shades = processor().preview(written(tmp_path / "falling.wav", falling))
    assert shades.dtype == np.uint8 and shades.ndim == 2 and shades.max() == 255
    rows, columns = shades.shape
    brightest = shades.argmax(axis=0)
    assert (brightest[5 : columns // 2 - 5] < rows / 2).all() and (brightest[columns // 2 + 5 : -5] > rows / 2).all()


# ---------------------------------------------------------------------------------------------------------- what is refused


def test_a_missing_sound(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.wav: no such sound"):
        processor()(tmp_path / "none.wav")


def test_a_folder_in_place_of_a_sound(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: not a WAV file"):
        processor()(tmp_path)


@pytest.mark.parametrize("size", [0, 3, 10, 20, 30, 43, 44, 45, 200, 1043])
def test_a_truncated_sound(size: int, tmp_path: Path) -> None:
    path = written(tmp_path / "one.wav", (sound(500) * 32767).astype(np.int16))
    assert path.stat().st_size == 1044
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"one.wav: (cannot read this sound, is it truncated|not a WAV file)"):
        processor()(path)


@pytest.mark.parametrize("rate", [0, 1_000_003, 2_000_000_011])
def test_a_rate_that_nothing_records_is_refused(rate: int, tmp_path: Path) -> None:
    path = written(tmp_path / "one.wav", (sound(500) * 32767).astype(np.int16), rate)
    with pytest.raises(DataError, match=rf"one.wav: says that it has {rate} samples a second; expected 1 to 1000000"):
        processor()(path)


@pytest.mark.parametrize("content", [b"", b"hello, I am no sound", b"ID3\x04 like an mp3", b"RIFF\x00\x00\x00\x00AVI LIST"])
def test_a_file_that_is_no_sound(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"text.wav: (not a WAV file.*ffmpeg|cannot read this sound)"):
        processor()(tmp_path / "text.wav")


def test_a_sound_that_is_too_long_is_refused_with_its_length(tmp_path: Path) -> None:
    path = written(tmp_path / "long.wav", sound(SECONDS * RATE + 1))
    with pytest.raises(DataError, match=r"long.wav: 2.00 seconds of sound, but the encoder takes at most 2 \(max_source_positions: 100\)"):
        processor()(path)


def test_a_file_without_samples_and_one_with_infinite_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.wav: there is no sound in this file"):
        processor()(written(tmp_path / "none.wav", np.zeros(0, dtype=np.int16)))
    with pytest.raises(DataError, match=r"nan.wav: not all samples are finite"):
        processor()(written(tmp_path / "nan.wav", np.array([0.0, np.nan] * 400)))


def test_what_data_workers_import_is_free_of_torch() -> None:
    modules = ("plugin", "whisper.config", "whisper.processor", "qwen2_audio.config")
    imports = "; ".join(f"import loongforge_audio.{module}" for module in modules)
    subprocess.run([sys.executable, "-c", f"{imports}; import sys; assert 'torch' not in sys.modules"], check=True)
