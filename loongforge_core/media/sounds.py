"""A WAV file -> samples of one channel at the rate that an encoder wants.

PCM of 8 to 32 bits and floats, any number of channels, any rate. Other formats (MP3, FLAC, ...) are not decoded: convert them once, such
as by `ffmpeg -i sound.mp3 sound.wav`. Resampling is scipy's polyphase filter, a sinc under a Kaiser window; transformers leaves it to
other libraries, whose filters differ from it as they do from one another.

scipy is no requirement of loongforge_core, which otherwise has no use for it: a plugin that reads sounds requires it.
"""

from __future__ import annotations

import math
import struct
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from loongforge_core.errors import DataError

__all__ = ["read_wav"]

LARGEST = 2**28
"""In bytes: hours of sound, where encoders take minutes. As numbers, it is up to eight times as large."""
DAMAGED = (OSError, EOFError, ValueError, TypeError, LookupError, NameError, ArithmeticError, MemoryError, struct.error, Warning)
"""What scipy raises for damaged files: among others it looks at variables that only a complete one would have set."""
HIGHEST_RATE = 1_000_000
"""Above what anything records: the filter that resamples is as long as the rate is high, so that a damaged header could fill all memory."""


def read_wav(path: Path, rate: int) -> np.ndarray:
    """Samples `[t]` float64, -1 to 1 in PCM, the mean of all channels, `rate` of them a second. Raises DataError naming the file."""
    recorded_rate, samples = opened(path)
    if samples.size == 0:
        raise DataError(f"{path}: there is no sound in this file")
    mono = scaled(samples) if samples.ndim == 1 else scaled(samples).mean(1)
    if not np.isfinite(mono).all():
        raise DataError(f"{path}: not all samples are finite numbers")
    return mono if recorded_rate == rate else resampled(mono, recorded_rate, rate)


def opened(path: Path) -> tuple[int, np.ndarray]:
    """The rate and the samples as they are stored, `[t]` or `[t, channels]`."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise DataError(f"{path}: a sound of {size:,} bytes; expected at most {LARGEST:,}: cut it into pieces that an encoder takes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # a chunk beside the sound that scipy does not know
            warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such sound") from error
    except DAMAGED as error:
        raise DataError(f"{path}: {refusal(path)} ({error})") from error
    if not 0 < rate <= HIGHEST_RATE:
        raise DataError(f"{path}: says that it has {rate} samples a second; expected 1 to {HIGHEST_RATE}")
    return rate, samples


def refusal(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        if file.read(4) in (b"RIFF", b"RIFX", b"RF64"):
            return "cannot read this sound, is it truncated?"
    return "not a WAV file, which is what sounds are read from; convert others, such as by `ffmpeg -i sound.mp3 sound.wav`"


def scaled(samples: np.ndarray) -> np.ndarray:
    """Integers to -1 .. 1; of 8 bits they have no sign, and scipy fills 24 bits up to 32."""
    if samples.dtype.kind == "u":
        return (samples.astype(np.float64) - 128) / 128
    if samples.dtype.kind == "i":
        return samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float64)


def resampled(samples_t: np.ndarray, recorded_rate: int, rate: int) -> np.ndarray:
    from scipy.signal import resample_poly  # slow to import, and not needed where data has the rate already

    common = math.gcd(recorded_rate, rate)
    result: np.ndarray = resample_poly(samples_t, rate // common, recorded_rate // common)
    return result
