"""Samples -> what an audio model hears: samples, or the logarithms of powers in frames, as transformers' feature extractors make them.

Frames are Kaldi's: 25 ms every 10 ms.

Shapes: t samples, F frames, M mel bins.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from loongforge_hf.hf_encoder.config import HOP, RATE, WINDOW

__all__ = ["MEAN", "STD", "Filterbank", "normalised_samples"]

FFT = 512
"""Samples of what is transformed: of a frame, and silence behind it."""
LOWEST_HERTZ, EMPHASIS, FLOOR = 20.0, 0.97, 1.192092955078125e-07
MEAN, STD = -4.2677393, 4.5689974
"""Of the frames of AudioSet, which the spectrogram transformer takes off."""


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
