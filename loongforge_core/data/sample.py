"""One conversation, ready for a batch: tokens, what is learned of them, opened items.

A sample is numpy; data workers make it. Items stand in the token sequence as runs of PLACEHOLDER_ID, all together as long as the
composition says that an item of this size is in the language model's sequence; most are one run, and the recipe says which are several.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loongforge_core.component import Augmentation, ItemRun, ItemSpan, ProcessedItem, Processor, Shape
from loongforge_core.config.composition import Composition
from loongforge_core.data.conversations import Conversation, ItemReference
from loongforge_core.data.template import ChatTemplate, Purpose, TokenisedText
from loongforge_core.errors import DataError, PluginError
from loongforge_core.media.named_files import refuse_device
from loongforge_core.model.batch import PLACEHOLDER_ID

__all__ = ["Sample", "SampleMaker"]

CACHED_TOKENS = 2**20
"""Tokens that are kept, of texts that may come again; each takes 28 bytes, and its text."""

ItemLayout = tuple[Shape, tuple[tuple[str, Any], ...]]
"""All that an item's tokens and positions depend on: its grid and the processor's details."""


@dataclass(frozen=True)
class Sample:
    """Arrays are `[s]`; each token's label is the one after it."""

    token_ids: np.ndarray
    """int64, PLACEHOLDER_ID where an item goes."""
    labels: np.ndarray
    """int64, the next token; 0 where `loss_mask` is 0."""
    loss_mask: np.ndarray
    """float32, 1 where the next token is part of an answer; the last token has no next."""
    position_ids: np.ndarray
    """int64 `[s]`, or `[3, s]` for M-RoPE."""
    where: str
    """`file:line`."""
    kind: str = ""
    items: Mapping[str, tuple[ProcessedItem, ...]] = field(default_factory=dict)
    """By modality, in order; modalities without an item are absent."""
    spans: tuple[ItemSpan, ...] = ()
    """Where the items stand, run by run, all modalities together, in order."""

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Tokens:
    """The part of a sample that its text and the grids of its items decide; the arrays are read-only."""

    token_ids: np.ndarray
    labels: np.ndarray
    loss_mask: np.ndarray
    position_ids: np.ndarray
    spans: tuple[ItemSpan, ...]


class SampleMaker:
    """Makes samples of conversations, for one composition."""

    def __init__(self, composition: Composition, template: ChatTemplate, processors: Mapping[str, Processor[Any]]) -> None:
        """`processors` opens the files of each modality."""
        if composition.foundation is None:
            raise DataError(f"{composition.name} has no foundation: conversations need a language model")
        self.composition = composition
        self.template = template
        self.processors = dict(processors)
        self.vocab_size = composition.foundation.vocab_size
        self._texts: OrderedDict[tuple[object, ...], Tokens] = OrderedDict()
        self._num_cached = 0

    def sample(self, conversation: Conversation, augmentations: Mapping[str, Augmentation] | None = None) -> Sample:
        """A training sample: the whole conversation, with the loss on the answers.

        `augmentations` distorts the items of the modalities it names. Raises DataError, beginning with the conversation's `where`.
        """
        return self._make(conversation, "train", augmentations or {})

    def prompt(self, conversation: Conversation) -> Sample:
        """The tokens up to where the answer to the last turn begins; nothing is learned."""
        return self._make(conversation, "generate", {})

    def _make(self, conversation: Conversation, purpose: Purpose, augmentations: Mapping[str, Augmentation]) -> Sample:
        items: dict[str, tuple[ProcessedItem, ...]] = {}
        layouts: list[ItemLayout] = []
        for reference in conversation.items:
            item, grid = self._open(reference, conversation.where, augmentations.get(reference.modality))
            items[reference.modality] = (*items.get(reference.modality, ()), item)
            layouts.append((grid, tuple(item.details.items())))
        tokens = self._tokens(conversation, purpose, tuple(layouts))
        return Sample(
            token_ids=tokens.token_ids,
            labels=tokens.labels,
            loss_mask=tokens.loss_mask,
            position_ids=tokens.position_ids,
            where=conversation.where,
            kind=conversation.kind,
            items=items,
            spans=tokens.spans,
        )

    def _tokens(self, conversation: Conversation, purpose: Purpose, layouts: tuple[ItemLayout, ...]) -> Tokens:
        """Rendered once per text: where texts repeat, rendering would take longer than a small model's step."""
        key = (purpose, layouts, *((message.role, *map(without_path, message.parts)) for message in conversation.messages))
        if (known := self._texts.get(key)) is not None:
            self._texts.move_to_end(key)
            return known
        runs = [self._runs(item.modality, *layout) for item, layout in zip(conversation.items, layouts, strict=True)]
        text = self.template.tokenise(conversation, purpose, runs)
        spans = spans_of(text, conversation, layouts, runs)
        token_ids, is_target = expand(text, spans)
        self._check(token_ids, is_target, purpose, conversation.where)
        labels, loss_mask = np.zeros_like(token_ids), np.zeros(len(token_ids), dtype=np.float32)
        loss_mask[:-1] = is_target[1:]
        np.copyto(labels[:-1], token_ids[1:], where=is_target[1:])
        tokens = Tokens(token_ids, labels, loss_mask, self.composition.recipe_config.position_ids(len(token_ids), spans), spans)
        for array in (tokens.token_ids, tokens.labels, tokens.loss_mask, tokens.position_ids):
            array.setflags(write=False)
        self._texts[key] = tokens
        self._num_cached += len(token_ids)
        while self._num_cached > CACHED_TOKENS:
            _, oldest = self._texts.popitem(last=False)
            self._num_cached -= len(oldest.token_ids)
        return tokens

    def _runs(self, modality: str, grid: Shape, details: tuple[tuple[str, Any], ...]) -> Sequence[ItemRun]:
        runs = self.composition.recipe_config.runs(modality, grid, dict(details))
        if (written := sum(math.prod(run.grid) for run in runs)) != math.prod(grid):
            recipe = self.composition.recipe.name
            raise PluginError(f"recipe {recipe!r} writes a {modality} whose tokens lie {grid} as {written} tokens: {runs}")
        return runs

    def _open(self, reference: ItemReference, where: str, augmentation: Augmentation | None) -> tuple[ProcessedItem, Shape]:
        """The item and how its tokens lie."""
        try:
            refuse_device(reference.path)
            item = self.processors[reference.modality](reference.path, augmentation)
            return item, self.composition.item_grid(reference.modality, item.size)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        except ValueError as error:
            raise DataError(f"{where}: {reference.path} does not fit the {reference.modality} encoder: {error}") from error

    def _check(self, token_ids: np.ndarray, is_target: np.ndarray, purpose: Purpose, where: str) -> None:
        limit = self.composition.run.train.seq_length
        if len(token_ids) > limit:
            raise DataError(f"{where}: {len(token_ids)} tokens, items included, but train.seq_length is {limit}")
        if purpose == "train" and not is_target.any():
            raise DataError(f"{where}: no token of an answer is left to learn from")
        if (highest := int(token_ids.max(initial=0))) >= self.vocab_size:
            token = self.template.tokenizer.convert_ids_to_tokens(highest)
            raise DataError(
                f"{where}: token {token!r} has the id {highest}, but model.foundation.vocab_size is {self.vocab_size}; "
                f"is {self.template.folder} this model's tokenizer?"
            )


def without_path(part: str | ItemReference) -> object:
    """What decides the tokens of a part. A tuple stands for an item, so that no text can be taken for one."""
    return part if isinstance(part, str) else (part.modality,)


def spans_of(
    text: TokenisedText, conversation: Conversation, layouts: tuple[ItemLayout, ...], runs: Sequence[Sequence[ItemRun]]
) -> tuple[ItemSpan, ...]:
    """Where runs stand once each is as long as its grid: behind those before it, each of which was one token."""
    spans: list[ItemSpan] = []
    positions, shift = iter(text.run_positions.tolist()), 0
    for reference, (_, details), own in zip(conversation.items, layouts, runs, strict=True):
        for index, run in enumerate(own):
            spans.append(ItemSpan(reference.modality, next(positions) + shift, run.grid, dict(details), continues=index > 0))
            shift += spans[-1].num_tokens - 1
    return tuple(spans)


def expand(text: TokenisedText, spans: tuple[ItemSpan, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and targets with every run's token repeated to its length."""
    repeats = np.ones(len(text.token_ids), dtype=np.int64)
    repeats[text.run_positions] = [span.num_tokens for span in spans]
    token_ids = text.token_ids.copy()
    token_ids[text.run_positions] = PLACEHOLDER_ID
    return token_ids.repeat(repeats), text.is_target.repeat(repeats)
