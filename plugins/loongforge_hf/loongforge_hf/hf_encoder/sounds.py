"""A WAV file -> what an audio model hears: samples, or the logarithms of powers in frames, as transformers' feature extractors make them.

PCM of 8 to 32 bits and floats, any number of channels, any rate; other formats are not decoded. Frames are Kaldi's: 25 ms every 10 ms.

Shapes: t samples, F frames, M mel bins.
"""

from __future__ import annotations

import math
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.io import wavfile

from loongforge_core.errors import DataError

__all__ = ["MEAN", "STD", "Filterbank", "normalised_samples", "read_wav"]

RATE, HOP, WINDOW, FFT = 16_000, 160, 400, 512
"""Samples a second, from one frame to the next, of a frame, and of what is transformed."""
HIGHEST_RATE = 1_000_000
"""Above what anything records: the filter that resamples is as long as the rate is high, so that a damaged header could fill all memory."""
LOWEST_HERTZ, EMPHASIS, FLOOR = 20.0, 0.97, 1.192092955078125e-07
MEAN, STD = -4.2677393, 4.5689974
"""Of the frames of AudioSet, which the spectrogram transformer takes off."""
DAMAGED = (OSError, EOFError, ValueError, TypeError, LookupError, NameError, ArithmeticError, MemoryError, struct.error, Warning)
"""What scipy raises for damaged files: among others it looks at variables that only a complete one would have set."""


def read_wav(path: Path) -> np.ndarray:
    """Samples `[t]` float64, -1 to 1 in PCM, the mean of all channels, 16,000 a second. Raises DataError naming the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # a chunk beside the sound that scipy does not know
            warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such sound") from error
    except DAMAGED as error:
        raise DataError(f"{path}: cannot read this sound; is it truncated, or not a WAV file? ({error})") from error
    if not 0 < rate <= HIGHEST_RATE:
        raise DataError(f"{path}: says that it has {rate} samples a second; expected 1 to {HIGHEST_RATE}")
    if samples.size == 0:
        raise DataError(f"{path}: there is no sound in this file")
    mono = scaled(samples) if samples.ndim == 1 else scaled(samples).mean(1)
    if not np.isfinite(mono).all():
        raise DataError(f"{path}: not all samples are finite numbers")
    return mono if rate == RATE else resampled(mono, rate)


def scaled(samples: np.ndarray) -> np.ndarray:
    """Integers to -1 .. 1; of 8 bits they have no sign, and scipy fills 24 bits up to 32."""
    if samples.dtype.kind == "u":
        return (samples.astype(np.float64) - 128) / 128
    if samples.dtype.kind == "i":
        return samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float64)


def resampled(samples_t: np.ndarray, recorded_rate: int) -> np.ndarray:
    from scipy.signal import resample_poly  # slow to import, and not needed where data has the rate already

    common = math.gcd(recorded_rate, RATE)
    result: np.ndarray = resample_poly(samples_t, RATE // common, recorded_rate // common)
    return result


def normalised_samples(samples_t: np.ndarray) -> np.ndarray:
    """A mean of 0 and a deviation of 1."""
    samples_t = samples_t.astype(np.float32)
    result: np.ndarray = (samples_t - samples_t.mean()) / np.sqrt(samples_t.var() + 1e-7)
    return result


class Filterbank:
    """Logarithms of the powers in triangular bands on Kaldi's mel scale."""

    def __init__(self, num_mel_bins: int, *, loudness: float = 1.0, sharpness: float = 1.0) -> None:
        """Samples are multiplied by `loudness`; the window is Hann's to the power of `sharpness`."""
        self.loudness = loudness
        self.window = np.hanning(WINDOW) ** sharpness
        edges = np.linspace(mel(LOWEST_HERTZ), mel(RATE / 2), num_mel_bins + 2)
        bins = mel(np.arange(FFT // 2 + 1) * (RATE / FFT))[:, None]
        rising, falling = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
        self.filters = np.maximum(0.0, np.minimum(rising, falling))

    def __call__(self, samples_t: np.ndarray) -> np.ndarray:
        """`[F, M]` float32 of the frames that lie within the samples, of which there are at least 400."""
        signal = samples_t.astype(np.float32).astype(np.float64) * self.loudness
        frames = sliding_window_view(signal, WINDOW)[::HOP]
        frames = frames - frames.mean(1, keepdims=True)
        emphasised = frames - EMPHASIS * np.concatenate((frames[:, :1], frames[:, :-1]), axis=1)
        power = np.abs(np.fft.rfft(emphasised * self.window, FFT)) ** 2
        return np.log(np.maximum(power @ self.filters, FLOOR)).astype(np.float32)


def mel(hertz: np.ndarray | float) -> np.ndarray:
    result: np.ndarray = 1127.0 * np.log(1.0 + np.asarray(hertz) / 700.0)
    return result
