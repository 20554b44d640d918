"""What is asked about the digits, and how often.

Three kinds: the digit in an image, the sum of two images' digits, the sum of two digits in the text, so that samples with one, two
and no images mix in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loongforge_models.draws import Draws

__all__ = ["Question", "evaluation_questions", "training_questions"]

NUM_TRAINING_QUESTIONS = 12_000
NUM_SYSTEM_PROMPTS = 200
"""Text sums that a system prompt comes before."""
NUM_SECOND_TURNS = 400
"""Text sums that are followed by another one."""
NUM_EVALUATION_SUMS = 360

# Short, because a byte is a token. One wording is as likely as another.
WORDINGS = {"single_digit": ("Digit?", "Read."), "two_image_sum": ("Sum?", "Add."), "text_sum": ("{0}+{1}?", "{0}+{1}=")}
SYSTEM_PROMPT = "Brief."


@dataclass(frozen=True)
class Question:
    """A conversation about the images of these numbers."""

    kind: str
    turns: tuple[tuple[str, str], ...]
    """Question and answer; `<image>` stands for the next image."""
    images: tuple[int, ...] = ()
    system: str | None = None

    def line(self, folder: str) -> dict[str, Any]:
        """The line of a conversations file; `folder` is where its images are."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        images = {"images": [f"{folder}/{number:04d}.png" for number in self.images]} if self.images else {}
        return {"messages": messages, **images, "kind": self.kind}


def training_questions(images: Sequence[int], labels: Sequence[int]) -> list[Question]:
    """Single digits, two-image sums and text sums as 2 : 3 : 1: image sums are learned last, and only when asked often."""
    author = Author(labels, seed="train")
    share = NUM_TRAINING_QUESTIONS // 6
    singles = [author.single_digit(number) for number in author.cycle(images, 2 * share)]
    sums = [author.two_image_sum(*pair) for pair in author.pairs(images, 3 * share)]
    texts = [author.text_sum(*divmod(pair, 10)) for pair in author.cycle(range(100), share)]
    for place in range(NUM_SYSTEM_PROMPTS):
        texts[place] = replace(texts[place], system=SYSTEM_PROMPT)
    for place in range(NUM_SYSTEM_PROMPTS, NUM_SYSTEM_PROMPTS + NUM_SECOND_TURNS):
        second = author.text_sum(*divmod(author.below(100), 10))
        texts[place] = replace(texts[place], turns=texts[place].turns + second.turns)
    return author.shuffled([*singles, *sums, *texts])


def evaluation_questions(images: Sequence[int], labels: Sequence[int]) -> list[Question]:
    """Every image once, sums in which no image occurs much oftener than another, every text sum."""
    author = Author(labels, seed="evaluation")
    singles = [author.single_digit(number) for number in images]
    sums = [author.two_image_sum(*pair) for pair in author.pairs(images, NUM_EVALUATION_SUMS)]
    return [*singles, *sums, *(author.text_sum(first, second) for first in range(10) for second in range(10))]


class Author(Draws):
    """Writes questions."""

    def __init__(self, labels: Sequence[int], *, seed: str) -> None:
        super().__init__(f"digits:{seed}")
        self.labels = labels

    def single_digit(self, image: int) -> Question:
        return self._question("single_digit", "<image>", self.labels[image], images=(image,))

    def two_image_sum(self, first: int, second: int) -> Question:
        return self._question("two_image_sum", "<image><image>", self.labels[first] + self.labels[second], images=(first, second))

    def text_sum(self, first: int, second: int) -> Question:
        question = self._question("text_sum", "", first + second)
        ((wording, answer),) = question.turns
        return replace(question, turns=((wording.format(first, second), answer),))

    def _question(self, kind: str, items: str, answer: int, *, images: tuple[int, ...] = ()) -> Question:
        wording = WORDINGS[kind][self.below(len(WORDINGS[kind]))]
        return Question(kind, ((items + wording, str(answer)),), images)

    def pairs(self, things: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
        return zip(self.cycle(things, count), self.cycle(things, count), strict=True)
