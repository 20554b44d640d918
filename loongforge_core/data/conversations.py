"""Conversations in JSON lines, the format that LLaMA-Factory and ms-swift users have.

    {"messages": [{"role": "user", "content": "<image>Digit?"}, {"role": "assistant", "content": "7"}],
     "images": ["images/0007.png"], "kind": "single_digit"}

A line has `messages`, one column of paths per modality (`images`, `videos`, `audios`, else the modality and an s; relative to
the file's folder and within it; links are followed, and absolute paths are taken as they are) and optionally `kind`, by which
evaluation reports. A tag such as `<image>` stands for the next path of its column, any number of them anywhere in a turn. Content may
also be a list of parts, `{"type": "text", "text": ...}` and `{"type": "image"}`; what a text part says is never read as a tag. Lines are
read when they are needed (`lines.py`), and what is wrong with one is said then. Text is UTF-8; lines may end as Windows has it.
"""

from __future__ import annotations

import json
import logging
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from loongforge_core.data.lines import open_lines
from loongforge_core.errors import DataError, did_you_mean
from loongforge_core.media.named_files import named_file
from loongforge_core.strict_json import load_json

__all__ = ["Conversation", "ConversationFiles", "ItemReference", "Message", "parse_conversation", "parse_question"]

logger = logging.getLogger(__name__)

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class ItemReference:
    """One image, video or sound, where it stands in a turn."""

    modality: str
    path: Path


@dataclass(frozen=True)
class Message:
    """One turn: pieces of text and items, in order."""

    role: str
    parts: tuple[str | ItemReference, ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class Conversation:
    """One line of a data file."""

    messages: tuple[Message, ...]
    where: str
    """`file:line`, or whatever names it in an error."""
    kind: str = ""

    @cached_property
    def items(self) -> tuple[ItemReference, ...]:
        """All items, in the order in which they are mentioned."""
        return tuple(part for message in self.messages for part in message.parts if not isinstance(part, str))

    @property
    def answer(self) -> str:
        """What the assistant says last."""
        return self.messages[-1].text

    def prompt(self) -> Conversation:
        """Everything before the last answer."""
        return replace(self, messages=self.messages[:-1])


class ConversationFiles:
    """The lines of one file or several, numbered through."""

    def __init__(self, paths: Sequence[Path], modalities: Sequence[str], *, indexes: Path | None = None, check: bool = True) -> None:
        """Finds where lines begin. `indexes` is a folder for what is kept of large files where it cannot lie beside them.

        Raises DataError for a file that is missing or empty and, if asked to `check`, where a file's first line is no conversation, so
        that a file of another kind is noticed at once.
        """
        self.paths = tuple(paths)
        self.modalities = tuple(modalities)
        self.files = tuple(open_lines(path, elsewhere=indexes) for path in self.paths)
        self._starts = [0, *accumulate(map(len, self.files))]
        self._ignored: set[str] = set()
        for start in self._starts[:-1] if check else ():
            self[start]

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Conversation]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Conversation:
        """Raises DataError for what is wrong with the line, and UnreadableFile where that cannot be known."""
        file, line = self._find(index)
        path, number = self.locate(index)
        return self._parse(self.files[file].read(line), folder=path.parent, where=f"{path}:{number}")

    def locate(self, index: int) -> tuple[Path, int]:
        """The file, and which line of it this is, as editors count."""
        file, line = self._find(index)
        return self.paths[file], self.files[file].number(line)

    def _find(self, index: int) -> tuple[int, int]:
        """Which file, and which of its lines that are not blank."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect_right(self._starts, index) - 1
        return file, index - self._starts[file]

    def _parse(self, content: bytes, *, folder: Path, where: str) -> Conversation:
        try:
            data = load_json(content.decode("utf-8-sig"))  # files that begin with a mark may have been joined
            refuse_half_characters(data, content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: expected a JSON object in one line, but this cannot be read as one: {error}") from error
        if not isinstance(data, dict):
            raise DataError(f"{where}: expected a JSON object with `messages`, got {shown(data)}")
        conversation = parse_conversation(data, self.modalities, folder=folder, where=where)
        self._report_ignored(data, where)
        return conversation

    def _report_ignored(self, data: Mapping[str, Any], where: str) -> None:
        """Says once of each column that nothing reads it."""
        known = {"messages", "kind", *map(column, self.modalities)}
        if new := [name for name in data if name not in known and name not in self._ignored]:
            self._ignored.update(new)
            logger.warning("%s: ignored columns: %s", where, ", ".join(new))


def column(modality: str) -> str:
    """The column that holds a modality's paths."""
    return f"{modality}s"


def parse_conversation(data: Mapping[str, Any], modalities: Sequence[str], *, folder: Path, where: str) -> Conversation:
    """The conversation that a line's object describes; it ends with an answer.

    `modalities` are those that can be encoded; paths are relative to `folder`; `where` begins each error.
    Raises DataError when roles, columns or the number of items are wrong. Does not open any item.
    """
    kind = data.get("kind", "")
    if not isinstance(kind, str):
        raise DataError(f"{where}: `kind` must be a string, got {shown(kind)}")
    paths = {modality: paths_of(data.get(column(modality), []), modality, folder, where) for modality in modalities}
    messages = turns_of(data.get("messages"), where)
    refuse_unencoded(data, modalities, where)
    parts = [parts_of(turn["content"], modalities, f"{where}: turn {number}") for number, turn in enumerate(messages, 1)]
    found = {modality: sum(content.count(Tag(modality)) for content in parts) for modality in modalities}
    for modality, count in found.items():
        if count != len(paths[modality]):
            raise DataError(
                f"{where}: {count} <{modality}> placeholder{'s' * (count != 1)} in the messages, "
                f"but {len(paths[modality])} path{'s' * (len(paths[modality]) != 1)} in `{column(modality)}`"
            )
    remaining = {modality: iter(found) for modality, found in paths.items()}
    return Conversation(
        messages=tuple(
            Message(
                turn["role"],
                tuple(ItemReference(part.modality, next(remaining[part.modality])) if isinstance(part, Tag) else part for part in content),
            )
            for turn, content in zip(messages, parts, strict=True)
        ),
        where=where,
        kind=kind,
    )


def parse_question(text: str, items: Mapping[str, Sequence[Path]], modalities: Sequence[str]) -> Conversation:
    """A question asked outside any file: one turn of the user's, to be answered. Its tags stand for `items`, by modality.

    Raises DataError when an item cannot be encoded, or tags and items do not match.
    """
    where = "the question"
    for modality in items:
        if modality not in modalities:
            raise DataError(f"{where}: this composition has no {modality} encoder{did_you_mean(modality, modalities)}")
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]
    columns = {column(modality): [str(path.absolute()) for path in paths] for modality, paths in items.items()}
    return parse_conversation({"messages": turns, **columns}, modalities, folder=Path(), where=where).prompt()


@dataclass(frozen=True)
class Tag:
    """A place for an item whose path is not known yet."""

    modality: str


def refuse_half_characters(data: Any, content: bytes) -> None:
    """JSON can write half of a character, as `\\ud83d` alone, which no tokenizer takes. Raises ValueError."""
    if b"\\ud" in content.lower():
        json.dumps(data, ensure_ascii=False).encode()


def refuse_unencoded(data: Mapping[str, Any], modalities: Sequence[str], where: str) -> None:
    """A column whose tag the messages mention holds items, whatever their modality is called: it is not just another column."""
    for name in data.keys() - {column(modality) for modality in modalities}:
        modality = name.removesuffix("s")
        if name != modality and isinstance(data[name], list) and any(f"<{modality}>" in str(turn["content"]) for turn in data["messages"]):
            raise DataError(
                f"{where}: the messages mention <{modality}>, with paths in `{name}`, but this composition has no {modality} encoder; "
                f"it encodes {', '.join(modalities) or 'nothing'}"
            )


def paths_of(value: Any, modality: str, folder: Path, where: str) -> list[Path]:
    if not isinstance(value, list) or not all(isinstance(path, str) for path in value):
        raise DataError(f"{where}: `{column(modality)}` must be a list of paths, got {shown(value)}")
    try:
        return [named_file(path, folder) for path in value]
    except DataError as error:
        raise DataError(f"{where}: `{column(modality)}`: {error}") from error


def turns_of(messages: Any, where: str) -> list[dict[str, Any]]:
    """The messages as given, with roles, order and keys checked."""
    if messages is None:
        raise DataError(f"{where}: no `messages`")
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise DataError(f"{where}: `messages` must be a list of objects with `role` and `content`, got {shown(messages)}")
    for number, turn in enumerate(messages, 1):
        if turn.keys() != {"role", "content"}:
            raise DataError(f"{where}: turn {number} has the keys {', '.join(turn) or 'none'}; expected `role` and `content`")
        if turn["role"] not in ROLES:
            raise DataError(f"{where}: turn {number} has the role {turn['role']!r}{did_you_mean(str(turn['role']), ROLES)}")
        if turn["role"] == "system" and number > 1:
            raise DataError(f"{where}: turn {number} is a system prompt; only the first may be one")
    if not any(turn["role"] == "assistant" for turn in messages):
        raise DataError(f"{where}: no message is the assistant's, so there is no answer to learn from")
    if messages[0]["role"] == "assistant":
        raise DataError(f"{where}: the first message is the assistant's: there is nothing that it answers")
    if messages[-1]["role"] != "assistant":
        raise DataError(f"{where}: the last message is the {messages[-1]['role']}'s; expected the assistant's answer")
    return messages


def parts_of(content: Any, modalities: Sequence[str], where: str) -> list[str | Tag]:
    """Content as pieces of text and places for items."""
    if isinstance(content, str):
        return split_tags(content, modalities)
    if not isinstance(content, list):
        raise DataError(f"{where}: `content` must be a string or a list of parts, got {shown(content)}")
    parts: list[str | Tag] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text), **rest} if not rest:
                parts.append(text)
            case {"type": str(modality), **rest} if modality in modalities and not rest:
                parts.append(Tag(modality))
            case _:
                forms = ['{"type": "text", "text": ...}', *(f'{{"type": "{modality}"}}' for modality in modalities)]
                raise DataError(f"{where}: expected each part to be {' or '.join(forms)}, got {shown(part)}")
    return parts


def split_tags(text: str, modalities: Sequence[str]) -> list[str | Tag]:
    """Text split at the tags of the modalities that are encoded; `<video>` is plain text where nothing encodes videos."""
    if not modalities:
        return [text]
    pieces = re.split(rf"<({'|'.join(map(re.escape, modalities))})>", text)  # text, modality, text, modality, ..., text
    return [Tag(piece) if index % 2 else piece for index, piece in enumerate(pieces) if index % 2 or piece]


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
