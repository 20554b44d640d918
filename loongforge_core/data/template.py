"""Conversations as tokens, written by the tokenizer's own chat template.

Text templates take a turn's content as a string, multimodal ones as a list of parts; which of the two, for which roles, and for
which modalities the template writes the placeholder itself, is found out by rendering probes. Where it does not write it, the
recipe's markup goes into the text. What an item is written as in the place of its placeholder, the recipe says once its size is known.

The loss falls on the assistant's turns only: what a turn adds behind the generation prompt, its end-of-turn token included, white space
after that not. Where a turn begins and ends is found by rendering the conversation up to it, which works only when a template
renders a turn the same whatever follows; a template that does not (some drop earlier reasoning) is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import TemplateError
from tokenizers import AddedToken
from transformers import AutoTokenizer

from loongforge_core.component import ItemMarkup, ItemRun
from loongforge_core.data.conversations import Conversation, Message
from loongforge_core.data.time_limit import time_limit
from loongforge_core.errors import DataError

__all__ = ["ChatTemplate", "TokenisedText"]

logger = logging.getLogger(__name__)

PROBE = "probe"
RENDERING_S = 10.0
"""Longest time for a conversation: they take less than a millisecond."""

Content = str | list[dict[str, str]]
Purpose = Literal["train", "generate"]


@dataclass(frozen=True)
class TokenisedText:
    """A conversation's tokens, each run of an item's still one token."""

    token_ids: np.ndarray
    """int64."""
    is_target: np.ndarray
    """bool; whether the token is part of an answer."""
    run_positions: np.ndarray
    """int64; where the runs of all items stand, in order."""


@dataclass(frozen=True)
class Item:
    """An item as it is to be written."""

    modality: str
    placeholder: str
    runs: tuple[ItemRun, ...]

    @cached_property
    def text(self) -> str:
        """What stands in the place of its placeholder, each run being one more."""
        return "".join(f"{run.before}{self.placeholder}{run.after}" for run in self.runs)


class ChatTemplate:
    """A Hugging Face tokenizer folder, and how it writes conversations."""

    def __init__(self, folder: Path, markups: Mapping[str, ItemMarkup]) -> None:
        """`markups` has the recipe's markup of every modality that is encoded.

        Raises DataError when the folder has no fast tokenizer or no chat template.
        """
        self.folder = folder
        self.markups = dict(markups)
        self.tokenizer = load_tokenizer(folder)
        self._add_placeholders()
        self.placeholder_ids = {
            modality: int(self.tokenizer.convert_tokens_to_ids(markup.placeholder)) for modality, markup in self.markups.items()
        }
        self._placeholder = re.compile("|".join(re.escape(markup.placeholder) for markup in self.markups.values()) or "(?!)")
        self._roles_with_parts: frozenset[str] = frozenset()
        self._left_out: frozenset[str] = frozenset()
        try:
            self._probe_roles()
            self._written_by_template = frozenset(filter(self._writes_placeholder, self.markups))
            self.stop_token_ids = self._stop_token_ids()
            """Tokens that end an answer."""
        except TemplateError as error:
            raise DataError(f"the chat template of {folder} cannot write a question and its answer: {error}") from error

    def _stop_token_ids(self) -> frozenset[int]:
        """The tokenizer's end of sequence, and the special token that the template writes behind an answer."""
        ending = self._render([*probe_question(), Message("assistant", (PROBE,))]).rpartition(PROBE)[2].strip()
        first = self.tokenizer(ending, add_special_tokens=False)["input_ids"][:1]
        written = frozenset(first) & frozenset(self.tokenizer.get_added_vocab().values())
        if not written:
            logger.warning("%s: the chat template ends an answer with no special token: a model will not learn where to stop", self.folder)
        return written | ({self.tokenizer.eos_token_id} - {None})

    def tokenise(self, conversation: Conversation, purpose: Purpose, runs: Sequence[Sequence[ItemRun]] | None = None) -> TokenisedText:
        """The conversation's tokens; for `generate`, up to where the answer to its last turn begins.

        `runs` are what each item is written as; by default one run. Raises DataError, beginning with `conversation.where`, when the
        template refuses or garbles it.
        """
        one_run = [(ItemRun(()),)] * len(conversation.items)
        items = [
            Item(item.modality, self.markups[item.modality].placeholder, tuple(own))
            for item, own in zip(conversation.items, one_run if runs is None else runs, strict=True)
        ]
        try:
            return self._tokenise(conversation, purpose, items)
        except TemplateError as error:
            raise DataError(f"{conversation.where}: the chat template of {self.folder} refuses this conversation: {error}") from error

    def _tokenise(self, conversation: Conversation, purpose: Purpose, items: Sequence[Item]) -> TokenisedText:
        messages = conversation.messages
        if lost := [message.role for message in messages if message.role in self._left_out]:
            raise DataError(f"{conversation.where}: the chat template of {self.folder} leaves out what a {lost[0]} turn says")
        text = self._write(messages, items, add_generation_prompt=purpose == "generate")
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        token_ids = np.array(encoding["input_ids"], dtype=np.int64)
        starts = np.array([start for start, _ in encoding["offset_mapping"]], dtype=np.int64)
        run_positions = self._find_runs(token_ids, items, conversation.where)
        is_target = np.zeros(len(token_ids), dtype=bool)
        if purpose == "train":
            for begin, end in self._answers(messages, items, text, conversation.where):
                is_target |= (starts >= begin) & (starts < end)
        is_target[run_positions] = False
        return TokenisedText(token_ids, is_target, run_positions)

    def _answers(self, messages: Sequence[Message], items: Sequence[Item], text: str, where: str) -> list[tuple[int, int]]:
        """Where, in characters, each of the assistant's turns begins and ends."""
        answers = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._write(messages[:index], items, add_generation_prompt=True)
            until = self._write(messages[: index + 1], items)
            if not text.startswith(until):
                raise DataError(
                    f"{where}: the chat template of {self.folder} renders turn {index + 1} differently depending on what follows it "
                    "(some templates drop earlier reasoning), so the tokens of its answer cannot be told; "
                    "use conversations with one answer, or another template"
                )
            if not until.startswith(before):
                raise DataError(
                    f"{where}: the chat template of {self.folder} asks for an answer with {before[-40:]!r}, but does not begin turn "
                    f"{index + 1} so: what is learned would not be what is asked for; write the answer as the template expects it"
                )
            answers.append((len(before), len(until.rstrip())))
        return answers

    def _find_runs(self, token_ids: np.ndarray, items: Sequence[Item], where: str) -> np.ndarray:
        """Positions of the placeholders, which must be those of the items' runs, in order."""
        expected = [self.placeholder_ids[item.modality] for item in items for _ in item.runs]
        positions = np.flatnonzero(np.isin(token_ids, list(self.placeholder_ids.values())))
        if token_ids[positions].tolist() != expected:
            names = ", ".join(repr(markup.placeholder) for markup in self.markups.values())
            of_runs = f" of {len(expected)} runs" if len(expected) != len(items) else ""
            raise DataError(
                f"{where}: rendered by the chat template of {self.folder}, the messages have {len(positions)} placeholders "
                f"({names}) for {len(items)} items{of_runs}, or in another order; a message's text must not contain a placeholder itself"
            )
        return positions

    # --------------------------------------------------------------------------------------------------------- rendering

    def _write(self, messages: Sequence[Message], items: Sequence[Item], *, add_generation_prompt: bool = False) -> str:
        """The messages, with what each item is written as in the place of its placeholder. They may end before the last item."""
        text = self._render(messages, add_generation_prompt=add_generation_prompt)
        remaining = iter(items)

        def written(found: re.Match[str]) -> str:
            """A placeholder that is not the next item's stays as it is, and is noticed among the tokens."""
            item = next(remaining, None)
            return item.text if item is not None and item.placeholder == found[0] else found[0]

        return self._placeholder.sub(written, text)

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        chat = [{"role": message.role, "content": self._content(message)} for message in messages]
        return self._apply(chat, add_generation_prompt=add_generation_prompt)

    def _apply(self, chat: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False) -> str:
        """What transformers' sandbox makes of the template. Raises TemplateError for whatever the template does wrong."""
        try:
            with time_limit(RENDERING_S):
                return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt))
        except TimeoutError as error:
            raise DataError(f"the chat template of {self.folder} does not come to an end: {error}") from error
        except TemplateError:
            raise
        except Exception as error:  # templates fail in any way that Python code can
            raise TemplateError(f"{type(error).__name__}: {error}") from error

    def _content(self, message: Message) -> Content:
        if message.role not in self._roles_with_parts:
            return "".join(part if isinstance(part, str) else str(self.markups[part.modality]) for part in message.parts)
        parts = []
        for part in message.parts:
            if isinstance(part, str):
                parts.append({"type": "text", "text": part})
            elif part.modality in self._written_by_template:
                parts.append({"type": part.modality})
            else:
                parts.append({"type": "text", "text": str(self.markups[part.modality])})
        return parts

    # ----------------------------------------------------------------------------------------------------------- probing

    def _probe_roles(self) -> None:
        """Finds the roles whose content may be a list of parts: it must come out as its text, not as Python or not at all. And the roles
        whose text comes out in neither form."""
        chats = {
            "user": [Message("user", (PROBE,))],
            "assistant": [*probe_question(), Message("assistant", (PROBE,))],
            "system": [Message("system", (PROBE,)), *probe_question()],
        }
        for role, chat in chats.items():
            before = self._roles_with_parts
            self._roles_with_parts = before | {role}
            text = self._try(partial(self._render, chat))
            if text is None or PROBE not in text or re.search("""['"]type['"]""", text):
                self._roles_with_parts = before
                if (text := self._try(partial(self._render, chat))) is not None and PROBE not in text:
                    self._left_out |= {role}

    def _writes_placeholder(self, modality: str) -> bool:
        """Whether the template turns a part of this modality into the recipe's placeholder, once."""
        if "user" not in self._roles_with_parts:
            return False
        chat = [{"role": "user", "content": [{"type": modality}, {"type": "text", "text": PROBE}]}]
        text = self._try(partial(self._apply, chat))
        return text is not None and text.count(self.markups[modality].placeholder) == 1

    @staticmethod
    def _try(render: Callable[[], str]) -> str | None:
        """None where the template does not take it."""
        try:
            return render()
        except TemplateError:
            return None

    def _add_placeholders(self) -> None:
        """Makes every placeholder one token, in memory: its id never reaches the model, which sees PLACEHOLDER_ID."""
        known = self.tokenizer.get_added_vocab()
        new = {markup.placeholder for markup in self.markups.values()} - known.keys()
        self.tokenizer.add_tokens([AddedToken(placeholder, special=True, normalized=False) for placeholder in sorted(new)])


def probe_question() -> list[Message]:
    return [Message("user", ("question",))]


def load_tokenizer(folder: Path) -> Any:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `tokenizer` must name a folder with a Hugging Face tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # damaged files raise anything, `Exception` itself included
        raise DataError(f"{folder}: cannot load a Hugging Face tokenizer from here: {error}") from error
    if not tokenizer.is_fast:
        raise DataError(f"{folder}: {type(tokenizer).__name__} cannot say where its tokens stand in the text; expected a `tokenizer.json`")
    if not tokenizer.chat_template:
        raise DataError(f"{folder}: this tokenizer has no chat template; add a `chat_template.jinja` that writes conversations as text")
    return tokenizer
