"""A line of a data file becomes a conversation, or an error that says what is wrong with it and where."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from loongforge_core.data.conversations import ConversationFiles, ItemReference, parse_question
from loongforge_core.errors import DataError

Write = Callable[..., Path]

QUESTION = {"role": "user", "content": "How are you?"}
ANSWER = {"role": "assistant", "content": "Well."}


def test_a_line_with_several_turns_and_items_of_two_modalities(write_lines: Write, tmp_path: Path) -> None:
    path = write_lines(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Is <image> like <image>or <audio>?"},
                {"role": "assistant", "content": "The first."},
                {"role": "user", "content": "<image>"},
                {"role": "assistant", "content": "No."},
            ],
            "images": ["a.png", "sub/b.png", "/elsewhere/c.png"],
            "audios": ["d.wav"],
            "kind": "comparison",
        }
    )
    conversation = ConversationFiles([path], ["image", "audio"])[0]
    a, b, c = (ItemReference("image", where) for where in (tmp_path / "a.png", tmp_path / "sub/b.png", Path("/elsewhere/c.png")))
    d = ItemReference("audio", tmp_path / "d.wav")
    assert [message.role for message in conversation.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert conversation.messages[1].parts == ("Is ", a, " like ", b, "or ", d, "?")
    assert conversation.items == (a, b, d, c)
    assert (conversation.kind, conversation.answer, conversation.where) == ("comparison", "No.", f"{path}:1")
    assert conversation.prompt().messages == conversation.messages[:-1]


def test_content_as_parts_in_which_text_is_never_a_tag(write_lines: Write, tmp_path: Path) -> None:
    content = [{"type": "text", "text": "Write <image> for "}, {"type": "image"}]
    conversation = ConversationFiles(
        [write_lines({"messages": [{"role": "user", "content": content}, ANSWER], "images": ["a.png"]})], ["image"]
    )[0]
    assert conversation.messages[0].parts == ("Write <image> for ", ItemReference("image", tmp_path / "a.png"))


def test_a_modality_of_any_name(write_lines: Write, tmp_path: Path) -> None:
    line = {"messages": [{"role": "user", "content": "<pressure>?"}, ANSWER], "pressures": ["p.txt"]}
    assert ConversationFiles([write_lines(line)], ["pressure"])[0].items == (ItemReference("pressure", tmp_path / "p.txt"),)


def test_a_tag_that_nothing_encodes_is_text(write_lines: Write) -> None:
    line = {"messages": [{"role": "user", "content": "What is <video> in HTML?"}, ANSWER]}
    assert ConversationFiles([write_lines(line)], ["image"])[0].messages[0].parts == ("What is <video> in HTML?",)


def test_files_are_numbered_through_and_blank_lines_count_as_lines(write_lines: Write) -> None:
    def line(answer: str) -> dict[str, object]:
        return {"messages": [QUESTION, {"role": "assistant", "content": answer}]}

    first = write_lines(line("0"), "", line("1"), name="first.jsonl")
    second = write_lines(line("é2"), line("3"), name="second.jsonl")
    files = ConversationFiles([first, second], [])
    assert [conversation.answer for conversation in files] == ["0", "1", "é2", "3"]
    assert [conversation.where for conversation in files] == [f"{first}:1", f"{first}:3", f"{second}:1", f"{second}:2"]
    with pytest.raises(IndexError):
        files[4]


def test_ignored_columns_are_reported_once(write_lines: Write, caplog: pytest.LogCaptureFixture) -> None:
    line = {"messages": [QUESTION, ANSWER], "source": "web", "tags": ["a"]}
    with caplog.at_level(logging.WARNING):
        files = ConversationFiles([write_lines(line, line, {**line, "id": 3})], [])
        list(files)
    assert [record.getMessage().partition("ignored columns: ")[2] for record in caplog.records] == ["source, tags", "id"]


BAD_LINES = {
    "not JSON": ("{'messages': []}", "this cannot be read as one: "),
    "key twice": ('{"messages": [], "kind": "a", "kind": "b"}', "the key 'kind' is there twice"),
    "not an object": ([1, 2], r"expected a JSON object with `messages`, got \[1, 2\]"),
    "no messages": ({"text": "hello"}, "no `messages`"),
    "messages not a list": ({"messages": "hello"}, "`messages` must be a list of objects"),
    "no answer": ({"messages": [QUESTION]}, "no message is the assistant's"),
    "last turn unanswered": ({"messages": [QUESTION, ANSWER, QUESTION]}, "the last message is the user's"),
    "answer to nothing": ({"messages": [ANSWER]}, "the first message is the assistant's"),
    "unknown role": ({"messages": [{"role": "asistant", "content": "x"}]}, "role 'asistant'; did you mean 'assistant'"),
    "late system prompt": ({"messages": [QUESTION, {"role": "system", "content": "x"}, ANSWER]}, "turn 2 is a system prompt"),
    "key missing": ({"messages": [{"role": "user"}, ANSWER]}, "turn 1 has the keys role; expected `role` and `content`"),
    "key unknown": ({"messages": [QUESTION, {**ANSWER, "weight": 0}]}, "turn 2 has the keys role, content, weight"),
    "content not text": ({"messages": [QUESTION, {"role": "assistant", "content": 7}]}, "turn 2: `content` must be a string"),
    "unknown part": ({"messages": [{"role": "user", "content": [{"type": "video"}]}, ANSWER]}, "turn 1: expected each part .*video"),
    "fewer paths": ({"messages": [{"role": "user", "content": "<image> <image>"}, ANSWER], "images": ["a"]}, "2 <image> .* but 1 path in"),
    "more paths": ({"messages": [QUESTION, ANSWER], "images": ["a", "b"]}, "0 <image> placeholders .* but 2 paths in `images`"),
    "no paths": ({"messages": [{"role": "user", "content": "<image>"}, ANSWER]}, "1 <image> placeholder in .* but 0 paths in `images`"),
    "paths not a list": ({"messages": [QUESTION, ANSWER], "images": "a.png"}, "`images` must be a list of paths"),
    "no encoder": ({"messages": [{"role": "user", "content": "<video>"}, ANSWER], "videos": ["a"]}, "no video encoder; it encodes image"),
    "kind not text": ({"messages": [QUESTION, ANSWER], "kind": 3}, "`kind` must be a string, got 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named(case: str, write_lines: Write) -> None:
    line, message = BAD_LINES[case]
    path = write_lines({"messages": [QUESTION, ANSWER]}, line)
    files = ConversationFiles([path], ["image"])
    with pytest.raises(DataError, match=message) as caught:
        files[1]
    assert str(caught.value).startswith(f"{path}:2: ")


def test_a_file_of_another_kind_is_noticed_when_it_is_opened(write_lines: Write) -> None:
    with pytest.raises(DataError, match=r"data.jsonl:1: .*cannot be read as one"):
        ConversationFiles([write_lines("[", "]")], [])


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"empty.jsonl: the data file is empty"):
        ConversationFiles([path], [])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.jsonl: cannot read this data file: No such file"):
        ConversationFiles([tmp_path / "none.jsonl"], [])


def test_a_question_outside_any_file() -> None:
    question = parse_question("<image>Digit?", {"image": [Path("/a.png")]}, ["image"])
    assert [message.role for message in question.messages] == ["user"]
    assert question.messages[0].parts == (ItemReference("image", Path("/a.png")), "Digit?")
    with pytest.raises(DataError, match=r"the question: 0 <image> placeholders .* but 1 path"):
        parse_question("Digit?", {"image": [Path("/a.png")]}, ["image"])
    with pytest.raises(DataError, match="no imag encoder; did you mean 'image'"):
        parse_question("<image>", {"imag": [Path("/a.png")]}, ["image"])
