"""What is asked about the tones, and how often.

Four kinds: the notes of a melody, the number of beeps, which of two notes is higher, and what the text alone tells, the note after or
before another, so that samples with one, two and no sounds mix in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loongforge_models.draws import Draws
from loongforge_models.tones.sounds import MAX_BEEPS, NOTES

__all__ = ["Question", "Sound", "evaluation_questions", "some_sounds", "training_questions"]

# Short, because a byte is a token. One wording is as likely as another.
WORDINGS = {"notes": ("Notes?", "Melody?"), "beeps": ("Beeps?", "Count."), "higher": ("Higher?", "Which is higher?")}
NEIGHBOURS = {"After {}?": 1, "Before {}?": -1}
SCALE = "".join(NOTES)


@dataclass(frozen=True)
class Sound:
    """A file, and what is to be heard in it: notes, or so many beeps."""

    name: str
    notes: str = ""
    beeps: int = 0


@dataclass(frozen=True)
class Question:
    """A question about these sounds and its answer; `<audio>` stands for the next sound."""

    kind: str
    text: str
    answer: str
    sounds: tuple[Sound, ...] = ()

    def line(self) -> dict[str, Any]:
        """The line of a conversations file that lies beside the folder of the sounds."""
        messages = [{"role": "user", "content": self.text}, {"role": "assistant", "content": self.answer}]
        audios = {"audios": [f"sounds/{sound.name}.wav" for sound in self.sounds]} if self.sounds else {}
        return {"messages": messages, **audios, "kind": self.kind}


def some_sounds(part: str, *, melodies: Sequence[int], beeps: int) -> list[Sound]:
    """Melodies, so many of one, two, ... notes, and sounds with beeps, of every number as many."""
    author = Author(f"{part}:sounds")
    sounds = [
        Sound(f"{part}_melody_{length}_{number:04d}", notes="".join(SCALE[author.below(len(SCALE))] for _ in range(length)))
        for length, count in enumerate(melodies, start=1)
        for number in range(count)
    ]
    return [*sounds, *(Sound(f"{part}_beeps_{number:04d}", beeps=1 + number % MAX_BEEPS) for number in range(beeps))]


def training_questions(sounds: Sequence[Sound], count: int) -> list[Question]:
    """Notes, beeps, pairs and text alone as 8 : 5 : 5 : 2."""
    author = Author("train")
    melodies, rows, singles = by_kind(sounds)
    share = count // 20
    return author.shuffled(
        [
            *(author.notes(sound) for sound in author.cycle(melodies, 8 * share)),
            *(author.beeps(sound) for sound in author.cycle(rows, 5 * share)),
            *author.pairs(singles, 5 * share),
            *(author.neighbour(*place) for place in author.cycle(all_neighbours(), 2 * share)),
        ]
    )


def evaluation_questions(sounds: Sequence[Sound], *, pairs: int) -> list[Question]:
    """Every sound once, so many pairs, every question that needs none."""
    author = Author("evaluation")
    melodies, rows, singles = by_kind(sounds)
    alone = [*map(author.notes, melodies), *map(author.beeps, rows)]
    return [*alone, *author.pairs(singles, pairs), *(author.neighbour(*place) for place in all_neighbours())]


def by_kind(sounds: Sequence[Sound]) -> tuple[list[Sound], list[Sound], list[Sound]]:
    """Melodies, beeps, and of the melodies those of one note."""
    melodies = [sound for sound in sounds if sound.notes]
    return melodies, [sound for sound in sounds if sound.beeps], [sound for sound in melodies if len(sound.notes) == 1]


def all_neighbours() -> list[tuple[str, str]]:
    return [(wording, note) for wording in NEIGHBOURS for note in SCALE]


class Author(Draws):
    """Writes questions."""

    def __init__(self, seed: str) -> None:
        super().__init__(f"tones:{seed}")

    def notes(self, sound: Sound) -> Question:
        return Question("notes", f"<audio>{self.wording('notes')}", " ".join(sound.notes), (sound,))

    def beeps(self, sound: Sound) -> Question:
        return Question("beeps", f"<audio>{self.wording('beeps')}", str(sound.beeps), (sound,))

    def pairs(self, singles: Sequence[Sound], count: int) -> Iterator[Question]:
        """Which of two single notes is higher; never of a pair of the same note."""
        firsts = self.cycle(singles, count)
        for first in firsts:
            others = [sound for sound in singles if sound.notes != first.notes]
            second = others[self.below(len(others))]
            answer = "first" if NOTES[first.notes] > NOTES[second.notes] else "second"
            yield Question("higher", f"<audio><audio>{self.wording('higher')}", answer, (first, second))

    def neighbour(self, wording: str, note: str) -> Question:
        """The scale begins anew behind its last note."""
        return Question("text", wording.format(note), SCALE[(SCALE.index(note) + NEIGHBOURS[wording]) % len(SCALE)])

    def wording(self, kind: str) -> str:
        return WORDINGS[kind][self.below(len(WORDINGS[kind]))]
