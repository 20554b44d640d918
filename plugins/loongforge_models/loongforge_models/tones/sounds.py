"""Sounds made of nothing: melodies of a tin whistle, and beeps. No two have the same timbre, loudness, tuning, pace and noise.

Shapes: t samples.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from loongforge_models.draws import Draws

__all__ = ["MAX_BEEPS", "MAX_SECONDS", "NOTES", "beeps", "melody", "write_wav"]

RATE = 16_000
"""Samples a second."""
NOTES = {"C": 1046.5, "D": 1174.7, "E": 1318.5, "F": 1396.9, "G": 1568.0, "A": 1760.0, "B": 1975.5}
"""The whistle's octave, in hertz."""
MAX_BEEPS = 5
MAX_SECONDS = 1.2
"""No sound is longer."""


def melody(notes: str, seed: str) -> np.ndarray:
    """The notes, such as `CEG`, one after another, `[t]` from -1 to 1."""
    player = Player(seed)
    pace, gap, tuning = player.between(0.14, 0.24), player.between(0.04, 0.08), player.between(-10, 10)
    parts = [player.silence(player.between(0.02, 0.1))]
    for note in notes:
        parts += [player.tone(NOTES[note] * 2 ** (tuning / 1200), pace * player.between(0.9, 1.1)), player.silence(gap)]
    return player.recorded(parts)


def beeps(count: int, seed: str) -> np.ndarray:
    """So many beeps of one pitch, `[t]` from -1 to 1."""
    player = Player(seed)
    pitch, length, gap = 500 * 2 ** player.between(0, 2.2), player.between(0.05, 0.09), player.between(0.06, 0.12)
    parts = [player.silence(player.between(0.02, 0.1))]
    for _ in range(count):
        parts += [player.tone(pitch, length), player.silence(gap * player.between(0.9, 1.1))]
    return player.recorded(parts)


class Player(Draws):
    """An instrument and a room, drawn by `seed`."""

    def __init__(self, seed: str) -> None:
        super().__init__(f"tones:{seed}")
        self.overtones = [self.between(0.0, 0.5) ** number for number in range(1, 4)]  # twice, three times and four times the pitch
        self.fading = self.between(0.0, 8.0)
        self.loudness = 10 ** self.between(-1.2, -0.05)
        self.noise = 10 ** self.between(-3.0, -1.5)  # beside a tone of 1

    def tone(self, pitch: float, seconds: float) -> np.ndarray:
        times = np.arange(round(seconds * RATE)) / RATE
        waves = [amplitude * np.sin(2 * np.pi * pitch * number * times) for number, amplitude in enumerate([1.0, *self.overtones], start=1)]
        edges = np.minimum(1.0, np.minimum(times / 0.008, times[::-1] / 0.015))  # without a click
        faded: np.ndarray = sum(waves) * edges * np.exp(-self.fading * times)
        return faded

    def silence(self, seconds: float) -> np.ndarray:
        return np.zeros(round(seconds * RATE))

    def recorded(self, parts: list[np.ndarray]) -> np.ndarray:
        """The parts in a row under the room's noise, as loud as this player is."""
        played = np.concatenate(parts)
        assert len(played) <= MAX_SECONDS * RATE
        # A generator's `random` is as stable from version to version as Python's own.
        noise = np.random.Generator(np.random.PCG64(self.below(2**53))).random(len(played)) * 2 - 1
        heard = played / np.abs(played).max() + self.noise * noise
        return heard / np.abs(heard).max() * self.loudness


def write_wav(path: Path, samples_t: np.ndarray) -> None:
    """16 bits, one channel."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.rint(samples_t * 32767).astype("<i2").tobytes())
