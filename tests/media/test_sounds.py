"""WAV files of every width, rate and number of channels are read, and what is no sound is refused by name."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from loongforge_core.errors import DataError
from loongforge_core.media.sounds import read_wav

RATE = 16_000


def sound(length: int) -> np.ndarray:
    """A falling tone, -1 to 1."""
    times = np.arange(length) / RATE
    return 0.6 * np.sin(2 * np.pi * (900 * times - 200 * times**2)) * np.exp(-times)


def written(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    wavfile.write(path, rate, samples)
    return path


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
    left, right = sound(3000).astype(np.float32), sound(3000)[::-1].astype(np.float32)
    both = read_wav(written(tmp_path / "both.wav", np.stack([left, right], axis=1)), RATE)
    np.testing.assert_allclose(both, (left + right) / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_sound_the_same(rate: int, tmp_path: Path) -> None:
    """A tone far below half of either rate comes out as the same tone; at the ends the filter sees nothing beyond."""
    made = {each: 0.5 * np.sin(2 * np.pi * 440 * np.arange(each) / each) for each in (rate, RATE)}
    found = read_wav(written(tmp_path / "one.wav", made[rate], rate), RATE)
    assert len(found) == RATE
    np.testing.assert_allclose(found[200:-200], made[RATE][200:-200], atol=2e-3, rtol=0)


def test_a_missing_sound(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.wav: no such sound"):
        read_wav(tmp_path / "none.wav", RATE)


def test_a_folder_in_place_of_a_sound(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: not a WAV file"):
        read_wav(tmp_path, RATE)


@pytest.mark.parametrize("size", [0, 3, 10, 20, 30, 43, 44, 45, 200, 1043])
def test_a_truncated_sound(size: int, tmp_path: Path) -> None:
    path = written(tmp_path / "one.wav", (sound(500) * 32767).astype(np.int16))
    assert path.stat().st_size == 1044
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match="one.wav: " + ("cannot read this sound, is it truncated" if size >= 4 else "not a WAV file")):
        read_wav(path, RATE)


@pytest.mark.parametrize("rate", [0, 1_000_003, 2_000_000_011])
def test_a_rate_that_nothing_records_is_refused(rate: int, tmp_path: Path) -> None:
    path = written(tmp_path / "one.wav", (sound(500) * 32767).astype(np.int16), rate)
    with pytest.raises(DataError, match=rf"one.wav: says that it has {rate} samples a second; expected 1 to 1000000"):
        read_wav(path, RATE)


@pytest.mark.parametrize("content", [b"", b"hello, I am no sound", b"ID3\x04 like an mp3", b"RIFF\x00\x00\x00\x00AVI LIST"])
def test_a_file_that_is_no_sound(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_bytes(content)
    said = "cannot read this sound" if content.startswith(b"RIFF") else "not a WAV file.*ffmpeg"
    with pytest.raises(DataError, match=f"text.wav: {said}"):
        read_wav(tmp_path / "text.wav", RATE)


def test_a_file_without_samples_and_one_with_infinite_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.wav: there is no sound in this file"):
        read_wav(written(tmp_path / "none.wav", np.zeros(0, dtype=np.int16)), RATE)
    with pytest.raises(DataError, match=r"nan.wav: not all samples are finite"):
        read_wav(written(tmp_path / "nan.wav", np.array([0.0, np.nan] * 400)), RATE)
