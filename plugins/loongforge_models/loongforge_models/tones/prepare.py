"""The tones data set: synthesised sounds as ordinary conversations files, the same every time.

train.jsonl     questions about the training sounds
test.jsonl      questions about sounds that occur in no training question: other timbres, tunings, paces, loudness and noise
sounds/         16-bit WAV files, a second or so each
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loongforge_models.tones.questions import Sound, evaluation_questions, some_sounds, training_questions
from loongforge_models.tones.sounds import beeps, melody, write_wav
from loongforge_models.whole_folder import write_whole

__all__ = ["prepare", "write_lines", "write_sounds"]

FILES = ("train.jsonl", "test.jsonl", "sounds")
NUM_TRAINING_QUESTIONS = 10_000
TRAINING_MELODIES, HELD_OUT_MELODIES = (400, 400, 600), (80, 80, 120)
"""Of one, two and three notes."""
TRAINING_BEEPS, HELD_OUT_BEEPS = 1600, 200
HELD_OUT_PAIRS = 200


def prepare(folder: Path) -> None:
    """Writes the data set into `folder`, all or nothing; does nothing where it is already.

    Raises DataError when the folder holds something else.
    """
    write_whole(folder, "tones", FILES, write)


def write(folder: Path) -> None:
    training = some_sounds("train", melodies=TRAINING_MELODIES, beeps=TRAINING_BEEPS)
    held_out = some_sounds("test", melodies=HELD_OUT_MELODIES, beeps=HELD_OUT_BEEPS)
    write_sounds(folder / "sounds", [*training, *held_out])
    write_lines(folder / "train.jsonl", [one.line() for one in training_questions(training, NUM_TRAINING_QUESTIONS)])
    write_lines(folder / "test.jsonl", [one.line() for one in evaluation_questions(held_out, pairs=HELD_OUT_PAIRS)])


def write_sounds(folder: Path, sounds: Sequence[Sound]) -> None:
    """Each under its name, which is also what its timbre is drawn by."""
    folder.mkdir()
    for sound in sounds:
        samples = melody(sound.notes, sound.name) if sound.notes else beeps(sound.beeps, sound.name)
        write_wav(folder / f"{sound.name}.wav", samples)


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
