"""The tokenizer's own chat template decides what is written: where items and answers are in it is found out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loongforge_core.component import ItemMarkup
from loongforge_core.data.conversations import Conversation, ItemReference, Message
from loongforge_core.data.template import ChatTemplate, TokenisedText
from loongforge_core.errors import DataError

MakeTokenizer = Callable[..., Path]

MARKUPS = {"image": ItemMarkup("<|image_pad|>", before="[", after="]"), "audio": ItemMarkup("<audio>")}
IMAGE = ItemReference("image", Path("a.png"))
AUDIO = ItemReference("audio", Path("b.wav"))

# Written after published templates: what each does with content, system prompts and earlier turns is theirs.
LLAMA3 = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '<|/start|>\\n\\n' + message['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|/start|>\\n\\n' }}{% endif %}"
)
QWEN_VL = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision|><|image_pad|><|/vision|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS_ONLY = (
    "{% for message in messages %}{{ message['role'] | upper + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<|image_pad|>\\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + '</s>' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
TEXT_OF_PARTS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS_REASONING = (
    "{% for message in messages %}{% set content = message.content %}{% if message.role == 'assistant' and not loop.last %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}<|im_start|>{{ message.role }}\n{{ content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRINGS_ELSE_NOTHING = (
    "{% for message in messages %}{% set content = message.content if message.content is string else '' %}"
    "<|im_start|>{{ message.role }}\n{{ content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRINGS_ELSE_JSON = STRINGS_ELSE_NOTHING.replace("else ''", "else message.content | tojson")
ASKS_FOR_REASONING = STRINGS_ELSE_NOTHING.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_ENDING = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CHATML_WITH_MARKUP = "<|im_start|>user\nIs [<|image_pad|>] like <audio>?<|im_end|>\n<|im_start|>assistant\n"


def talk(*turns: tuple[object, ...]) -> Conversation:
    return Conversation(tuple(Message(str(role), tuple(parts)) for role, *parts in turns), where="data.jsonl:7")  # type: ignore[arg-type]


def written(template: ChatTemplate, text: TokenisedText) -> tuple[str, list[str]]:
    """All tokens as text, and the runs of those that are targets."""
    runs = np.split(np.arange(len(text.token_ids)), np.flatnonzero(np.diff(text.is_target.astype(int))) + 1)
    return (
        template.tokenizer.decode(text.token_ids),
        [template.tokenizer.decode(text.token_ids[run]) for run in runs if text.is_target[run[0]]],
    )


def test_loss_on_the_answers_and_their_ends_only(make_tokenizer: MakeTokenizer) -> None:
    template = ChatTemplate(make_tokenizer(), {})
    conversation = talk(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hellö 😀\n"), ("user", "Bye"), ("assistant", "Ciao"))
    text, targets = written(template, template.tokenise(conversation, "train"))
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHellö 😀\n<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nCiao<|im_end|>\n"
    )
    assert targets == ["Hellö 😀\n<|im_end|>", "Ciao<|im_end|>"]


def test_a_prompt_ends_where_the_answer_begins(make_tokenizer: MakeTokenizer) -> None:
    template = ChatTemplate(make_tokenizer(), {})
    conversation = talk(("user", "Hi"), ("assistant", "Hello"))
    whole, prompt = template.tokenise(conversation, "train"), template.tokenise(conversation.prompt(), "generate")
    assert template.tokenizer.decode(prompt.token_ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    first_target = int(whole.is_target.argmax())
    assert prompt.token_ids.tolist() == whole.token_ids[:first_target].tolist()
    assert not prompt.is_target.any()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(None, CHATML_WITH_MARKUP, id="CHATML"),
        pytest.param(
            LLAMA3,
            "<|begin|><|start|>user<|/start|>\n\nIs [<|image_pad|>] like <audio>?<|eot|><|start|>assistant<|/start|>\n\n",
            id="LLAMA3",
        ),
        pytest.param(
            QWEN_VL,
            "<|im_start|>user\nIs <|vision|><|image_pad|><|/vision|> like <audio>?<|im_end|>\n<|im_start|>assistant\n",
            id="QWEN_VL",
        ),
        pytest.param(TEXT_OF_PARTS, CHATML_WITH_MARKUP, id="TEXT_OF_PARTS"),
        pytest.param(STRINGS_ELSE_NOTHING, CHATML_WITH_MARKUP, id="STRINGS_ELSE_NOTHING"),
        pytest.param(STRINGS_ELSE_JSON, CHATML_WITH_MARKUP, id="STRINGS_ELSE_JSON"),
        pytest.param(NO_SYSTEM, CHATML_WITH_MARKUP, id="NO_SYSTEM"),
    ],
)
def test_who_writes_the_placeholder_is_found_out(source: str | None, expected: str, make_tokenizer: MakeTokenizer) -> None:
    """The template where it knows the modality and writes the recipe's placeholder, the recipe's markup elsewhere."""
    template = ChatTemplate(make_tokenizer(source) if source else make_tokenizer(), MARKUPS)
    text = template.tokenise(talk(("user", "Is ", IMAGE, " like ", AUDIO, "?")), "generate")
    assert template.tokenizer.decode(text.token_ids) == expected
    placeholders = [template.tokenizer.convert_ids_to_tokens(int(id)) for id in text.token_ids[text.run_positions]]
    assert placeholders == ["<|image_pad|>", "<audio>"]


def test_a_template_that_takes_parts_only(make_tokenizer: MakeTokenizer) -> None:
    template = ChatTemplate(make_tokenizer(PARTS_ONLY, special=("</s>",)), MARKUPS)
    conversation = talk(("system", "Brief."), ("user", "Is this ", IMAGE), ("assistant", "Yes"), ("user", "Sure?"), ("assistant", "No"))
    text, targets = written(template, template.tokenise(conversation, "train"))
    assert text == "SYSTEM: Brief.</s>USER: <|image_pad|>\nIs this </s>ASSISTANT: Yes</s>USER: Sure?</s>ASSISTANT: No</s>"
    assert targets == ["Yes</s>", "No</s>"]


def test_a_placeholder_that_the_tokenizer_knows_keeps_its_id(make_tokenizer: MakeTokenizer) -> None:
    template = ChatTemplate(make_tokenizer(special=("<|im_start|>", "<|im_end|>", "<|image_pad|>")), MARKUPS)
    assert template.placeholder_ids == {"image": 258, "audio": 259}


def test_an_item_in_an_answer_is_no_target(make_tokenizer: MakeTokenizer) -> None:
    template = ChatTemplate(make_tokenizer(), MARKUPS)
    conversation = talk(("user", "Draw."), ("assistant", "Here: ", IMAGE, "!"))
    assert written(template, template.tokenise(conversation, "train"))[1] == ["Here: [", "]!<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_is_refused(make_tokenizer: MakeTokenizer) -> None:
    template = ChatTemplate(make_tokenizer(DROPS_REASONING), {})
    question, answer = ("user", "Hi"), ("assistant", "<think>A greeting.</think>Hello")
    assert written(template, template.tokenise(talk(question, answer), "train"))[1] == ["<think>A greeting.</think>Hello<|im_end|>"]
    with pytest.raises(DataError, match=r"^data.jsonl:7: .* renders turn 2 differently depending on what follows it"):
        template.tokenise(talk(question, answer, question, answer), "train")


def test_an_answer_that_does_not_begin_as_it_is_asked_for(make_tokenizer: MakeTokenizer) -> None:
    template = ChatTemplate(make_tokenizer(ASKS_FOR_REASONING), {})
    question = ("user", "Hi")
    assert written(template, template.tokenise(talk(question, ("assistant", "<think>\nA greeting.")), "train"))[1] == [
        "A greeting.<|im_end|>"
    ]
    with pytest.raises(DataError, match=r"^data.jsonl:7: .* asks for an answer with .*<think>.* but does not begin turn 2 so"):
        template.tokenise(talk(question, ("assistant", "Hello")), "train")


def test_a_conversation_that_the_template_refuses(make_tokenizer: MakeTokenizer) -> None:
    template = ChatTemplate(make_tokenizer(NO_SYSTEM), {})
    with pytest.raises(DataError, match=r"^data.jsonl:7: .* refuses this conversation: System role not supported"):
        template.tokenise(talk(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")), "train")


def test_a_template_that_leaves_out_what_a_role_says(make_tokenizer: MakeTokenizer) -> None:
    template = ChatTemplate(make_tokenizer(NO_ENDING.replace("messages %}", "messages if message.role != 'system' %}")), MARKUPS)
    question = ("user", "Hello")
    template.tokenise(talk(question), "generate")
    with pytest.raises(DataError, match=r"data\.jsonl:7: the chat template of .* leaves out what a system turn says"):
        template.tokenise(talk(("system", "Be brief."), question), "generate")


def test_a_placeholder_in_the_text_itself_is_refused(make_tokenizer: MakeTokenizer) -> None:
    template = ChatTemplate(make_tokenizer(), MARKUPS)
    with pytest.raises(DataError, match=r"^data.jsonl:7: .* have 2 placeholders .* for 1 items"):
        template.tokenise(talk(("user", "What is <|image_pad|>? ", IMAGE), ("assistant", "A token.")), "train")


def test_where_an_answer_stops(make_tokenizer: MakeTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    assert ChatTemplate(make_tokenizer(), {}).stop_token_ids == {257}
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert not ChatTemplate(make_tokenizer(NO_ENDING, name="endless"), {}).stop_token_ids
    assert "will not learn where to stop" in caplog.text


def test_a_folder_without_a_chat_template(make_tokenizer: MakeTokenizer) -> None:
    folder = make_tokenizer(None)
    with pytest.raises(DataError, match=f"{folder}: this tokenizer has no chat template"):
        ChatTemplate(folder, {})


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: no such folder"):
        ChatTemplate(tmp_path / "none", {})
    with pytest.raises(DataError, match=f"{tmp_path}: cannot load a Hugging Face tokenizer from here"):
        ChatTemplate(tmp_path, {})
