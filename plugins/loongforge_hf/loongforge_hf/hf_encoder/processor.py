"""A file -> what the model of that name takes, as transformers' own processor makes it, without torch or torchvision.

What is longer than a model takes is an error: cut off, it would teach a model to answer what it did not hear.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from loongforge_core.component import Augmentation, ProcessedItem, Processor
from loongforge_core.errors import DataError
from loongforge_core.media.images import middle, normalised, open_rgb, with_shorter_side
from loongforge_core.media.sounds import read_wav
from loongforge_hf.hf_encoder.config import HOP, RATE, WINDOW, HfEncoderConfig
from loongforge_hf.hf_encoder.sounds import MEAN, STD, Filterbank, normalised_samples

__all__ = ["HfProcessor"]

RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class HfProcessor(Processor[HfEncoderConfig]):
    """Emits `pixel_values` [1, 3, H, W]; `input_values`, samples [t] or frames [F, M]; or `input_features` [F / 2, 2 M]; float32."""

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        values, size = self._picture(path) if self.config.architecture.modality == "image" else self._sound(path)
        return ProcessedItem({self.config.architecture.input_name: values}, size)

    def _picture(self, path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
        config, published = self.config, self.config.pictures
        resample, length = RESAMPLE[config.resample or published.resample], config.side_before_cut
        image = open_rgb(path)
        try:
            crops = (config.fit or published.fit) == "crop"
            resized = with_shorter_side(image, length, resample) if crops else image.resize((length, length), resample)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        mean, std = config.image_mean or published.image_mean, config.image_std or published.image_std
        pixels = normalised(middle(resized, config.side), mean, std)
        return pixels[None], pixels.shape[1:]

    def _sound(self, path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
        samples = read_wav(path, RATE)
        kind = self.config.sounds.kind
        if kind != "spectrogram" and len(samples) > self.config.most_samples:
            raise DataError(
                f"{path}: {len(samples) / RATE:.2f} seconds of sound, but at most {self.config.most_samples / RATE:g} are taken "
                f"(max_seconds); cut it into pieces"
            )
        if kind == "samples":
            return self._samples(path, samples)
        if len(samples) < WINDOW + (HOP if kind == "paired spectrogram" else 0):
            raise DataError(f"{path}: {len(samples)} samples are too short for {self.config.name}, which looks at frames of 25 ms")
        frames = self.filterbank(samples)
        return self._padded(path, frames) if kind == "spectrogram" else self._paired(frames)

    def _samples(self, path: Path, samples: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        try:
            self.config.token_grid((len(samples),))
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        normalise = self.config.sounds.normalise if self.config.normalise is None else self.config.normalise
        values = normalised_samples(samples) if normalise else samples.astype(np.float32)
        return values, values.shape

    def _padded(self, path: Path, frames: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """As many frames as the model takes, silent ones behind the sound's own."""
        longest = self.config.values["max_length"]
        if len(frames) > longest:
            raise DataError(f"{path}: {len(frames)} frames of sound, but {self.config.name} takes {longest} (config.max_length)")
        padded = np.zeros((longest, frames.shape[1]), dtype=np.float32)
        padded[: len(frames)] = frames
        return (padded - MEAN) / (2 * STD), (longest,)

    def _paired(self, frames: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """Every band normalised over the sound, then two frames side by side; one that is left over is not heard."""
        scaled = (frames - frames.mean(0)) / np.sqrt(frames.var(0, ddof=1) + 1e-7)
        pairs = scaled[: len(scaled) // 2 * 2].reshape(len(scaled) // 2, -1)
        return pairs, (len(pairs),)

    @cached_property
    def filterbank(self) -> Filterbank:
        if self.config.sounds.kind == "spectrogram":
            return Filterbank(self.config.values["num_mel_bins"])
        return Filterbank(self.config.values["feature_projection_input_dim"] // 2, loudness=2.0**15, sharpness=0.85)
