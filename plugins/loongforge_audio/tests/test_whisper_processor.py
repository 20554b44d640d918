"""Sounds become the frames that transformers makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from loongforge_audio.qwen2_audio.config import Qwen2AudioConfig
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


def test_a_sound_that_is_too_long_is_refused_with_its_length(tmp_path: Path) -> None:
    path = written(tmp_path / "long.wav", sound(SECONDS * RATE + 1))
    with pytest.raises(DataError, match=r"long.wav: 2.00 seconds of sound, but the encoder takes at most 2 \(max_source_positions: 100\)"):
        processor()(path)


def test_what_data_workers_import_is_free_of_torch() -> None:
    modules = ("plugin", "whisper.config", "whisper.processor", "qwen2_audio.config")
    imports = "; ".join(f"import loongforge_audio.{module}" for module in modules)
    subprocess.run([sys.executable, "-c", f"{imports}; import sys; assert 'torch' not in sys.modules"], check=True)
