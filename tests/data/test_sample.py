"""A conversation becomes tokens, labels, positions and items, or an error that names its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loongforge_core.component import Augmentation, ItemMarkup, ItemRun, ItemSpan, ProcessedItem, RecipeConfig, Shape
from loongforge_core.data.collate import collate
from loongforge_core.data.conversations import Conversation, ItemReference, Message
from loongforge_core.data.sample import Sample, SampleMaker
from loongforge_core.errors import DataError, PluginError
from loongforge_core.model.batch import PLACEHOLDER_ID

MakeMaker = Callable[..., SampleMaker]


@pytest.fixture
def conversation(tmp_path: Path) -> Conversation:
    """Items of two and of one token."""
    (tmp_path / "long.txt").write_text("1 2 3 4")
    (tmp_path / "short.txt").write_text("5 6")
    long, short = (ItemReference("series", tmp_path / name) for name in ("long.txt", "short.txt"))
    messages = (
        Message("user", (long, "or", short)),
        Message("assistant", ("A",)),
        Message("user", ("?",)),
        Message("assistant", ("BC",)),
    )
    return Conversation(messages, where="data.jsonl:7", kind="choice")


def tokens(sample: Sample, maker: SampleMaker, *, where: np.ndarray | None = None) -> list[str]:
    ids = sample.token_ids if where is None else sample.labels[where]
    return ["*" if id == PLACEHOLDER_ID else maker.template.tokenizer.decode([id]) for id in ids.tolist()]


def test_items_are_as_long_as_the_composition_says(make_maker: MakeMaker, conversation: Conversation) -> None:
    maker = make_maker()
    sample = maker.sample(conversation)
    text = "".join(tokens(sample, maker))
    assert text.startswith("<|im_start|>user\n[**]or[*]<|im_end|>\n")
    start = len("|user\n[")  # <|im_start|> is one token
    assert sample.spans == (ItemSpan("series", start, (2,)), ItemSpan("series", start + len("**]or["), (1,)))
    for span in sample.spans:
        assert (sample.token_ids[span.start : span.start + span.num_tokens] == PLACEHOLDER_ID).all()
    assert [item.inputs["values"].ravel().tolist() for item in sample.items["series"]] == [[1, 2, 3, 4], [5, 6]]
    assert (sample.where, sample.kind, len(sample)) == ("data.jsonl:7", "choice", len(sample.token_ids))


def test_each_label_is_the_next_token(make_maker: MakeMaker, conversation: Conversation) -> None:
    maker = make_maker()
    sample = maker.sample(conversation)
    targets = sample.loss_mask == 1
    assert tokens(sample, maker, where=targets) == ["A", "<|im_end|>", "B", "C", "<|im_end|>"]
    assert (sample.labels[:-1] == sample.token_ids[1:])[targets[:-1]].all()
    assert (sample.labels[~targets] == 0).all()
    assert sample.loss_mask[-1] == 0


def test_nothing_is_learned_from_a_prompt(make_maker: MakeMaker, conversation: Conversation) -> None:
    maker = make_maker()
    whole, prompt = maker.sample(conversation), maker.prompt(conversation.prompt())
    assert prompt.token_ids.tolist() == whole.token_ids[: len(prompt)].tolist()
    assert "".join(tokens(prompt, maker)).endswith("<|im_start|>assistant\n")
    assert not prompt.loss_mask.any()


def test_positions_are_the_recipes(make_maker: MakeMaker, conversation: Conversation) -> None:
    assert make_maker().sample(conversation).position_ids.tolist() == list(range(len(make_maker().sample(conversation))))
    three = make_maker(axes=3).sample(conversation).position_ids
    assert three.shape[0] == 3
    assert three[:, 4].tolist() == [4, 40, 400]


def test_a_repeated_text_with_other_items_has_their_lengths(make_maker: MakeMaker, conversation: Conversation, tmp_path: Path) -> None:
    maker = make_maker()
    first = maker.sample(conversation)
    (tmp_path / "long.txt").write_text("1 2 3 4 5 6")
    second = maker.sample(conversation)
    assert [span.grid for span in first.spans] == [(2,), (1,)]
    assert [span.grid for span in second.spans] == [(3,), (1,)]
    assert len(second) == len(first) + 1


class TimedRecipe(RecipeConfig):
    """Every token of an item is a run by itself, with its number in front."""

    lost: int = 0
    """Tokens that it forgets to write."""

    def markup(self, modality: str) -> ItemMarkup:
        return ItemMarkup("<|pad|>", before="[", after="]")

    def runs(self, modality: str, grid: Shape, details: Mapping[str, Any]) -> Sequence[ItemRun]:
        return [ItemRun((1,), before=f"{token}s(", after=")") for token in range(grid[0] - self.lost)]


def test_an_item_may_be_several_runs_with_text_between_them(make_maker: MakeMaker, conversation: Conversation) -> None:
    maker = make_maker(recipe=TimedRecipe())
    sample = maker.sample(conversation)
    text = "".join(tokens(sample, maker))
    assert text.startswith("<|im_start|>user\n[0s(*)1s(*)]or[0s(*)]<|im_end|>\n")
    assert [(span.grid, span.continues) for span in sample.spans] == [((1,), False), ((1,), True), ((1,), False)]
    assert [sample.token_ids[span.start] for span in sample.spans] == [PLACEHOLDER_ID] * 3
    assert len(sample.items["series"]) == 2
    assert tokens(sample, maker, where=sample.loss_mask == 1) == ["A", "<|im_end|>", "B", "C", "<|im_end|>"]
    placed = collate([sample, maker.sample(conversation)]).placements["series"]
    assert placed.position_N.tolist() == [span.start for span in sample.spans] * 2


def test_a_recipe_that_loses_tokens_is_an_error(make_maker: MakeMaker, conversation: Conversation) -> None:
    with pytest.raises(PluginError, match=r"recipe 'marked' writes a series whose tokens lie \(2,\) as 1 tokens"):
        make_maker(recipe=TimedRecipe(lost=1)).sample(conversation)


def test_too_long(make_maker: MakeMaker, conversation: Conversation) -> None:
    length = len(make_maker().sample(conversation))
    assert len(make_maker(seq_length=length).sample(conversation)) == length
    with pytest.raises(DataError, match=f"^data.jsonl:7: {length} tokens, items included, but train.seq_length is {length - 1}$"):
        make_maker(seq_length=length - 1).sample(conversation)


def test_an_answer_without_a_token(make_maker: MakeMaker) -> None:
    endless = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    empty = Conversation((Message("user", ("Hi",)), Message("assistant", ())), where="data.jsonl:7")
    with pytest.raises(DataError, match=r"^data.jsonl:7: no token of an answer is left to learn from"):
        make_maker(endless).sample(empty)


def test_a_tokenizer_larger_than_the_model(make_maker: MakeMaker, conversation: Conversation) -> None:
    with pytest.raises(DataError, match=r"^data.jsonl:7: token '<|im_end|>' has the id 257, but model.foundation.vocab_size is 257"):
        make_maker(vocab_size=257).sample(conversation)


def test_the_placeholder_needs_no_row_of_the_vocabulary(make_maker: MakeMaker, conversation: Conversation) -> None:
    maker = make_maker(vocab_size=258)
    assert maker.template.placeholder_ids["series"] == 258
    assert maker.sample(conversation).token_ids.max() == 257


def test_an_item_that_cannot_be_opened_names_the_line(make_maker: MakeMaker, conversation: Conversation, tmp_path: Path) -> None:
    (tmp_path / "short.txt").unlink()
    with pytest.raises(DataError, match=r"^data.jsonl:7: .*short.txt: no such file"):
        make_maker().sample(conversation)


def test_an_item_whose_size_does_not_fit(make_maker: MakeMaker, conversation: Conversation, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("5 6 7")
    with pytest.raises(DataError, match=r"^data.jsonl:7: .*short.txt does not fit the series encoder: 3 numbers"):
        make_maker().sample(conversation)


def test_details_of_an_item_reach_its_span(make_maker: MakeMaker, conversation: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    """And texts that are alike are told apart by them, since positions may depend on them."""
    maker = make_maker()
    processor, opened = maker.processors["series"], iter(range(4))

    def with_details(path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        return replace(processor(path, augmentation), details={"seconds": next(opened)})

    monkeypatch.setitem(maker.processors, "series", with_details)
    found = [[span.details for span in maker.sample(conversation).spans] for _ in range(2)]
    assert found == [[{"seconds": 0}, {"seconds": 1}], [{"seconds": 2}, {"seconds": 3}]]
