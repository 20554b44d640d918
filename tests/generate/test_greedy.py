"""Answers do not depend on the batch, and are those of the plainest loop there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loongforge_core.config.composition import Composition
from loongforge_core.data.collate import collate
from loongforge_core.data.conversations import Conversation, ItemReference, Message
from loongforge_core.data.sample import Sample, SampleMaker
from loongforge_core.errors import DataError
from loongforge_core.generate.greedy import GreedyDecoder
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry


@pytest.fixture
def questions(conversations: Sequence[Conversation]) -> list[Conversation]:
    return [each.prompt() for each in conversations]


@pytest.fixture
def untrained(composition: Composition, maker: SampleMaker, memorised: OmniCombinationModel) -> GreedyDecoder:
    """Its answers are nonsense that does not end."""
    return GreedyDecoder(maker, OmniModelProvider(composition=composition, registry=Registry.discover())(), max_new_tokens=6)


def plainest(model: OmniCombinationModel, prompt: Sample, count: int) -> list[int]:
    """One sequence, everything done again for every token."""
    tokens: list[int] = []
    for _ in range(count):
        grown = np.concatenate([prompt.token_ids, np.array(tokens, dtype=np.int64)])
        empty = np.zeros(len(grown))
        sample = replace(prompt, token_ids=grown, labels=empty, loss_mask=empty, position_ids=np.arange(len(grown)))
        with torch.no_grad():
            tokens.append(int(model(collate([sample]), with_labels=False)[0, -1].argmax()))
    return tokens


def test_what_was_memorised_is_answered(decoder: GreedyDecoder, questions: list[Conversation], conversations: list[Conversation]) -> None:
    assert decoder.answer(questions) == [each.answer for each in conversations]


@pytest.mark.parametrize("which", ["decoder", "untrained"])
def test_a_batch_answers_as_one_by_one(which: str, questions: list[Conversation], request: pytest.FixtureRequest) -> None:
    decoder: GreedyDecoder = request.getfixturevalue(which)
    together = decoder.answer(questions)
    assert together == [decoder.answer([question])[0] for question in questions]
    assert together == list(reversed(decoder.answer(list(reversed(questions)))))
    assert len(set(together)) > 1


def test_equals_the_plainest_loop(untrained: GreedyDecoder, questions: list[Conversation]) -> None:
    prompts = [untrained.maker.prompt(question) for question in questions]
    expected = [plainest(untrained.model, prompt, untrained.max_new_tokens) for prompt in prompts]
    assert untrained.decode(prompts, stop=()) == expected


def test_ends_at_a_stop_token_or_the_limit(untrained: GreedyDecoder, questions: list[Conversation]) -> None:
    prompt = untrained.maker.prompt(questions[0])
    (tokens,) = untrained.decode([prompt], stop=())
    assert len(tokens) == untrained.max_new_tokens
    assert untrained.decode([prompt], stop={tokens[0]}) == [[]]
    later = next(token for token in tokens if token != tokens[0])
    assert untrained.decode([prompt], stop={later}) == [tokens[: tokens.index(later)]]


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_model_as_it_was(training: bool, decoder: GreedyDecoder, questions: list[Conversation]) -> None:
    decoder.model.zero_grad()
    decoder.model.train(training)
    decoder.answer(questions)
    assert decoder.model.training is training
    assert all(parameter.grad is None for parameter in decoder.model.parameters())


def test_items_are_encoded_once(decoder: GreedyDecoder, questions: list[Conversation]) -> None:
    assert decoder.model.encoder is not None
    calls: list[int] = []
    encoder = decoder.model.encoder.slots["image_encoder"]
    handle = encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    decoder.answer(questions)
    handle.remove()
    assert calls == [6]


def test_an_image_that_is_not_there_is_named(decoder: GreedyDecoder, questions: list[Conversation]) -> None:
    nowhere = ItemReference("image", Path("nowhere.png"))
    question = replace(questions[0], messages=(Message("user", (nowhere, "Read.")),))
    with pytest.raises(DataError, match=r"nowhere\.png"):
        decoder.answer([question])
