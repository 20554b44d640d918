"""A sound file -> log-mel frames, as `transformers.WhisperFeatureExtractor` makes them.

A window of 25 ms every 10 ms, its power in triangular bands on Slaney's mel scale, the logarithm, cut off eight decades below the loudest.
The reference pads a sound with silence to the longest length first; here frames of silence, which are all alike, are not computed but
filled in. It cuts off what is longer, which would teach a model to answer what it did not hear: here that is an error.

Shapes: t samples, F frames, M mel bins.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from loongforge_audio.whisper.config import WhisperConfig
from loongforge_core.component import Augmentation, ProcessedItem, Processor
from loongforge_core.errors import DataError
from loongforge_core.media.sounds import read_wav

__all__ = ["WhisperProcessor"]

RATE, HOP, WINDOW = 16_000, 160, 400
"""Samples a second, from one frame to the next, and that a frame is made of."""
FLOOR = -10.0
"""The logarithm of silence."""
RANGE = 8.0
"""Decades of power below the loudest that are told apart."""
SOUNDING = 2
"""Frames behind a sound's own whose windows may still reach into it."""

CACHED_SOUNDS = 4096
CACHED_BYTES = 32 * 1024
"""A sound whose frames take no more than this, about a second, is opened once: opening it takes longer than a small model needs for it."""


class WhisperProcessor(Processor[WhisperConfig]):
    """Emits `input_features` `[F, M]` float32, about -1 to 1.5; the size is (frames,), the encoder's own where that is fixed.

    F is `config.num_rows(size)`: an encoder may look at silence behind the sound.
    """

    def __init__(self, config: WhisperConfig, modality: str = "audio") -> None:
        super().__init__(config, modality)
        self.filters = mel_filters(config.num_mel_bins)
        self.window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
        self._short_sounds: OrderedDict[str, ProcessedItem] = OrderedDict()

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        name = str(path)  # a path is slow to compare
        if (known := self._short_sounds.get(name)) is not None:
            self._short_sounds.move_to_end(name)
            return known
        item = self._opened(path)
        features = item.inputs["input_features"]
        if features.nbytes <= CACHED_BYTES:
            features.setflags(write=False)
            self._short_sounds[name] = item
            if len(self._short_sounds) > CACHED_SOUNDS:
                self._short_sounds.popitem(last=False)
        return item

    def _opened(self, path: Path) -> ProcessedItem:
        samples = read_wav(path, RATE)
        longest = self.config.max_frames * HOP
        if len(samples) > longest:
            raise DataError(
                f"{path}: {len(samples) / RATE:.2f} seconds of sound, but the encoder takes at most {longest / RATE:g} "
                f"(max_source_positions: {self.config.max_source_positions}); cut it into pieces"
            )
        size = self.config.fixed_item_size or (-(-len(samples) // HOP),)
        return ProcessedItem({"input_features": self.log_mel(samples, self.config.num_rows(size))}, size)

    def published(self) -> Mapping[str, Any]:
        seconds, rest = divmod(self.config.max_frames * HOP, RATE)
        if rest:  # the reference counts whole seconds
            return {}
        return {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": self.config.num_mel_bins,
            "sampling_rate": RATE,
            "hop_length": HOP,
            "n_fft": WINDOW,
            "chunk_length": seconds,
            "n_samples": seconds * RATE,
            "nb_max_frames": self.config.max_frames,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": self.config.fixed_item_size is None,
        }

    def preview(self, path: Path) -> np.ndarray:
        """The sound's frames from left to right, high notes at the top."""
        samples = read_wav(path, RATE)[: self.config.max_frames * HOP]
        features_MF = self.log_mel(samples, -(-len(samples) // HOP)).T[::-1]
        shades = (features_MF - features_MF.min()) / (np.ptp(features_MF) or 1.0) * 255
        return shades.astype(np.uint8).repeat(max(1, round(0.6 * shades.shape[1] / shades.shape[0])), axis=0)

    def log_mel(self, samples_t: np.ndarray, rows: int) -> np.ndarray:
        """The first `rows` frames `[F, M]` of the samples and the silence behind them."""
        sounding = min(-(-len(samples_t) // HOP) + SOUNDING, self.config.max_frames)
        # The reference's signal ends with the longest sound's last sample; at both ends windows see its mirror image.
        signal = np.zeros(min(self.config.max_frames * HOP, sounding * HOP + WINDOW), dtype=np.float32)
        signal[: len(samples_t)] = samples_t
        mirrored = np.pad(signal.astype(np.float64), WINDOW // 2, mode="reflect")
        windows = sliding_window_view(mirrored, WINDOW)[::HOP][:sounding]
        power = np.abs(np.fft.rfft(windows * self.window)) ** 2
        logarithm_FM = np.log10(np.maximum(power @ self.filters, 10**FLOOR))
        lowest = max(FLOOR, float(logarithm_FM.max()) - RANGE)
        features = np.full((rows, self.config.num_mel_bins), (lowest + 4) / 4, dtype=np.float32)
        features[:sounding] = (np.maximum(logarithm_FM, lowest)[:rows] + 4) / 4
        return features


def mel_filters(num_mel_bins: int) -> np.ndarray:
    """`[WINDOW // 2 + 1, M]`: triangles of equal area, whose corners lie evenly on the mel scale from 0 Hz to half the rate."""
    edges = hertz(np.linspace(0.0, mel(RATE / 2), num_mel_bins + 2))
    frequencies = np.linspace(0.0, RATE / 2, WINDOW // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - frequencies) / np.diff(edges)[1:]
    return np.maximum(0.0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))


LINEAR_UP_TO, MELS_PER_HERTZ, MELS_PER_FOLD = 1000.0, 3 / 200, 27 / math.log(6.4)
"""Slaney's scale: linear up to 1000 Hz, logarithmic above, 27 mels for a factor of 6.4."""


def mel(frequency: float) -> float:
    assert frequency >= LINEAR_UP_TO
    return LINEAR_UP_TO * MELS_PER_HERTZ + MELS_PER_FOLD * math.log(frequency / LINEAR_UP_TO)


def hertz(mels: np.ndarray) -> np.ndarray:
    knee = LINEAR_UP_TO * MELS_PER_HERTZ
    return np.where(mels < knee, mels / MELS_PER_HERTZ, LINEAR_UP_TO * np.exp((np.maximum(mels, knee) - knee) / MELS_PER_FOLD))
