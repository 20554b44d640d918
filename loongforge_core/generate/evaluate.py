"""Exact match on a file of questions: what the model answers, compared with what the file says.

The file is a conversations file; the last turn of each line is the answer. A line's `kind` decides where it is counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import distributed

from loongforge_core.data.conversations import Conversation, ConversationFiles, Message
from loongforge_core.errors import DataError
from loongforge_core.generate.greedy import GreedyDecoder, groups_of, place_among_replicas

__all__ = [
    "UNNAMED_KIND",
    "Prediction",
    "answer_questions",
    "exact_match",
    "open_questions",
    "replace_text",
    "rounds",
    "write_evaluation",
]

UNNAMED_KIND = "all"
"""Where lines without a `kind` are counted."""
WINDOW = 16
"""Batches that are opened together, to be sorted by length: padding is work, and memory is not endless."""


@dataclass(frozen=True)
class Prediction:
    """One question with its answer."""

    question: str
    """What was asked, with a tag such as `<image>` for each item; where there are several turns, all of them."""
    answer: str
    """The model's."""
    truth: str
    """The file's."""
    kind: str
    items: tuple[tuple[str, str], ...]
    """Modality and path of each item, in order."""

    @property
    def is_correct(self) -> bool:
        """Equal but for white space around it."""
        return self.answer.strip() == self.truth.strip()


def open_questions(path: Path, modalities: Sequence[str]) -> ConversationFiles:
    """The questions of a file, before hours are spent on what shall answer them.

    Raises DataError for a line that is not a conversation which ends with an answer, and for an item that is not there. Opens no item.
    """
    conversations = ConversationFiles([path], modalities)
    for conversation in conversations:
        for item in conversation.items:
            if not os.path.exists(item.path):  # a folder of frames is a video; False, not an error, for a name too long
                raise DataError(f"{conversation.where}: there is no {item.modality} {item.path}")
    return conversations


def answer_questions(
    decoder: GreedyDecoder,
    conversations: ConversationFiles | Sequence[Conversation],
    *,
    batch_size: int,
    progress: Callable[[int], object] = lambda count: None,
    between: Callable[[], None] = lambda: None,
) -> list[Prediction]:
    """A prediction for each conversation, in their order, on every rank. Data-parallel replicas of the model share them; not where they
    share experts, for which each would wait at every token until the others come to one.

    `progress` is told how many were answered since it was last told, by this replica and, about, by the others. `between` is called before
    each batch, on every rank as often, and may end it all by raising.
    """
    replicas = groups_of(decoder.model).dp
    rank, size = place_among_replicas(decoder.model)
    share = range(rank, len(conversations), size)
    ours: list[Prediction] = []
    for start, most in rounds(len(conversations), size, batch_size * WINDOW):
        window = share[start : start + most]
        part = [conversations[index] for index in window]
        prompts = [decoder.maker.prompt(conversation.prompt()) for conversation in part]
        answers: dict[int, str] = {}
        by_length = sorted(range(len(part)), key=lambda row: len(prompts[row]))
        for first in range(0, most, batch_size):
            between()
            if not (rows := by_length[first : first + batch_size]):  # another replica has one more
                continue
            answers.update(zip(rows, decoder.answer_prompts([prompts[row] for row in rows]), strict=True))
            progress(len(rows) * size)
        ours += [prediction(conversation, answers[row]) for row, conversation in enumerate(part)]
    if size == 1:
        return ours
    shares: list[list[Prediction]] = [[]] * size
    distributed.all_gather_object(shares, ours, group=replicas)
    return [shares[index % len(shares)][index // len(shares)] for index in range(len(conversations))]


def exact_match(predictions: Sequence[Prediction]) -> dict[str, dict[str, float | int]]:
    """`{kind: {"exact_match": share of right answers, "samples": how many}}`, in the order in which kinds first occur."""
    by_kind: dict[str, list[bool]] = {}
    for one in predictions:
        by_kind.setdefault(one.kind or UNNAMED_KIND, []).append(one.is_correct)
    return {kind: {"exact_match": sum(right) / len(right), "samples": len(right)} for kind, right in by_kind.items()}


def write_evaluation(predictions: Sequence[Prediction], folder: Path) -> Mapping[str, Mapping[str, float | int]]:
    """Writes `evaluation.json` and `predictions.jsonl`, each all or nothing; returns what the former says."""
    report = exact_match(predictions)
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "predictions.jsonl", "".join(json.dumps(as_line(one), ensure_ascii=False) + "\n" for one in predictions))
    replace_text(folder / "evaluation.json", json.dumps(report, indent=2) + "\n")
    return report


def prediction(conversation: Conversation, answer: str) -> Prediction:
    turns = conversation.prompt().messages
    question = as_text(turns[0]) if len(turns) == 1 else "\n".join(f"{turn.role}: {as_text(turn)}" for turn in turns)
    items = tuple((item.modality, str(item.path)) for item in conversation.items)
    return Prediction(question, answer, conversation.answer, conversation.kind, items)


def as_text(message: Message) -> str:
    return "".join(part if isinstance(part, str) else f"<{part.modality}>" for part in message.parts)


def as_line(one: Prediction) -> dict[str, Any]:
    items = [{"modality": modality, "path": path} for modality, path in one.items]
    return {**asdict(one), "items": items, "is_correct": one.is_correct}


def rounds(number: int, replicas: int, size: int) -> Iterator[tuple[int, int]]:
    """Where each round begins in the shares of so many replicas, and how many of the `number` samples a replica has in it at most."""
    most = -(-number // replicas)
    return ((start, min(size, most - start)) for start in range(0, most, size))


def replace_text(path: Path, text: str) -> None:
    """Writes a file, all or nothing."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
