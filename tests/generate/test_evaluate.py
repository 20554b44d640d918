"""Exact match counts what it says it counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loongforge_core.data.conversations import Conversation, Message
from loongforge_core.errors import DataError
from loongforge_core.generate.evaluate import Prediction, answer_questions, exact_match, open_questions, write_evaluation
from loongforge_core.generate.greedy import GreedyDecoder


def predicted(answer: str, truth: str, kind: str = "") -> Prediction:
    return Prediction("?", answer, truth, kind, ())


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_every_question_gets_its_own_answer(
    batch_size: int, decoder: GreedyDecoder, conversations: list[Conversation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loongforge_core.generate.evaluate.WINDOW", 2)  # so that batches of two need two windows
    told: list[int] = []
    predictions = answer_questions(decoder, conversations, batch_size=batch_size, progress=told.append)
    assert [one.answer for one in predictions] == [each.answer for each in conversations]
    assert [one.items for one in predictions] == [tuple((item.modality, str(item.path)) for item in each.items) for each in conversations]
    assert sum(told) == len(conversations)
    assert max(told) == min(batch_size, len(conversations))


def test_a_wrong_truth_is_a_wrong_answer(decoder: GreedyDecoder, conversations: list[Conversation]) -> None:
    first = conversations[0]
    changed = replace(first, messages=(*first.messages[:-1], Message("assistant", ("8",))))
    report = exact_match(answer_questions(decoder, [changed, *conversations[1:]], batch_size=64))
    assert report == {
        "one": {"exact_match": 0.5, "samples": 2},
        "two": {"exact_match": 1.0, "samples": 2},
        "text": {"exact_match": 1.0, "samples": 1},
        "all": {"exact_match": 1.0, "samples": 1},
    }


@pytest.mark.parametrize(
    ("answer", "truth", "is_correct"),
    [("7", "7", True), (" 7\n", "7 ", True), ("7", "17", False), ("seven", "Seven", False), ("1 7", "17", False), ("", "7", False)],
)
def test_only_white_space_around_is_forgiven(answer: str, truth: str, is_correct: bool) -> None:
    assert predicted(answer, truth).is_correct is is_correct


def test_files(tmp_path: Path) -> None:
    predictions = [Prediction("<image>Digit?", "7", "7", "single", (("image", "7.png"),)), predicted("1", "2")]
    report = write_evaluation(predictions, tmp_path / "new")
    assert report == json.loads((tmp_path / "new" / "evaluation.json").read_text())
    assert report == {"single": {"exact_match": 1.0, "samples": 1}, "all": {"exact_match": 0.0, "samples": 1}}
    lines = [json.loads(line) for line in (tmp_path / "new" / "predictions.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "question": "<image>Digit?",
        "answer": "7",
        "truth": "7",
        "kind": "single",
        "items": [{"modality": "image", "path": "7.png"}],
        "is_correct": True,
    }
    assert len(lines) == 2
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["evaluation.json", "predictions.jsonl"]


def test_the_question_is_shown_as_it_was_asked(decoder: GreedyDecoder, conversations: list[Conversation]) -> None:
    one_turn, with_image = conversations[4], conversations[0]
    several = replace(one_turn, messages=(Message("system", ("Brief.",)), *one_turn.messages, *one_turn.messages))
    shown = [one.question for one in answer_questions(decoder, [one_turn, with_image, several], batch_size=8)]
    assert shown == ["1+1?", "<image>Read.", "system: Brief.\nuser: 1+1?\nassistant: 2\nuser: 1+1?"]


def test_an_item_may_be_a_folder_but_not_nothing(tmp_path: Path) -> None:
    """A video may be a folder of frames."""
    turns = [{"role": "user", "content": "<video>How many?"}, {"role": "assistant", "content": "3"}]
    (tmp_path / "questions.jsonl").write_text(json.dumps({"messages": turns, "videos": ["frames"]}) + "\n")
    with pytest.raises(DataError, match=r"questions.jsonl:1: there is no video .*frames"):
        open_questions(tmp_path / "questions.jsonl", ["video"])
    (tmp_path / "frames").mkdir()
    assert len(open_questions(tmp_path / "questions.jsonl", ["video"])) == 1
