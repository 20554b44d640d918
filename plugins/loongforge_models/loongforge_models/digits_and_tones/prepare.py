"""The data set that needs ears and eyes at once: scikit-learn's scanned digits and synthesised beeps.

train.jsonl     questions about the training images and sounds: a digit and beeps together, either alone, sums in the text alone
test.jsonl      the same about images and sounds that occur in no training question
images/         as in the digits data set
sounds/         as in the tones data set
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loongforge_models.digits.prepare import split, write_scans
from loongforge_models.tones.prepare import write_lines, write_sounds
from loongforge_models.tones.questions import Author, Sound, some_sounds
from loongforge_models.whole_folder import write_whole

__all__ = ["prepare"]

FILES = ("train.jsonl", "test.jsonl", "images", "sounds")
TRAINING_BEEPS, HELD_OUT_BEEPS = 800, 200
NUM_TRAINING_QUESTIONS, NUM_HELD_OUT_SUMS = 10_000, 300
WORDINGS = {"both": "<image><audio>Add.", "digit": "<image>Digit?", "beeps": "<audio>Beeps?", "text": "{}+{}?"}


@dataclass(frozen=True)
class Digit:
    """An image and what it shows."""

    number: int
    label: int


def prepare(folder: Path) -> None:
    """Writes the data set into `folder`, all or nothing; does nothing where it is already.

    Raises DataError when the folder holds something else.
    """
    write_whole(folder, "digits_and_tones", FILES, write)


def write(folder: Path) -> None:
    labels = write_scans(folder / "images")
    parts = split(labels)
    training, held_out = ([Digit(number, labels[number]) for number in part] for part in (parts.training, parts.held_out))
    training_sounds = some_sounds("train", melodies=(), beeps=TRAINING_BEEPS)
    held_out_sounds = some_sounds("test", melodies=(), beeps=HELD_OUT_BEEPS)
    write_sounds(folder / "sounds", [*training_sounds, *held_out_sounds])
    write_lines(folder / "train.jsonl", list(training_lines(training, training_sounds)))
    write_lines(folder / "test.jsonl", list(evaluation_lines(held_out, held_out_sounds)))


def training_lines(digits: Sequence[Digit], sounds: Sequence[Sound]) -> list[dict[str, Any]]:
    """Both, an image, a sound and neither as 10 : 5 : 3 : 2."""
    author, share = Author("both:train"), NUM_TRAINING_QUESTIONS // 20
    lines = [
        *sums(author, digits, sounds, 10 * share),
        *(line("digit", digit.label, digit=digit) for digit in author.cycle(digits, 5 * share)),
        *(line("beeps", sound.beeps, sound=sound) for sound in author.cycle(sounds, 3 * share)),
        *(line("text", sum(summands), *summands) for summands in author.cycle(all_text_sums(), 2 * share)),
    ]
    return author.shuffled(lines)


def evaluation_lines(digits: Sequence[Digit], sounds: Sequence[Sound]) -> Iterator[dict[str, Any]]:
    """Sums, every image and every sound once, every text sum."""
    yield from sums(Author("both:evaluation"), digits, sounds, NUM_HELD_OUT_SUMS)
    yield from (line("digit", digit.label, digit=digit) for digit in digits)
    yield from (line("beeps", sound.beeps, sound=sound) for sound in sounds)
    yield from (line("text", sum(summands), *summands) for summands in all_text_sums())


def sums(author: Author, digits: Sequence[Digit], sounds: Sequence[Sound], count: int) -> Iterator[dict[str, Any]]:
    for digit, sound in zip(author.cycle(digits, count), author.cycle(sounds, count), strict=True):
        yield line("both", digit.label + sound.beeps, digit=digit, sound=sound)


def all_text_sums() -> list[tuple[int, int]]:
    return [(first, second) for first in range(10) for second in range(10)]


def line(kind: str, answer: int, *summands: int, digit: Digit | None = None, sound: Sound | None = None) -> dict[str, Any]:
    """The line of a conversations file that lies beside the folders of the items."""
    messages = [{"role": "user", "content": WORDINGS[kind].format(*summands)}, {"role": "assistant", "content": str(answer)}]
    images = {"images": [f"images/{digit.number:04d}.png"]} if digit else {}
    audios = {"audios": [f"sounds/{sound.name}.wav"]} if sound else {}
    return {"messages": messages, **images, **audios, "kind": kind}
