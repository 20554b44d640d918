"""The digits: which scans are held out, what the files say, the tokenizer, and the samples that training makes of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import loongforge_models
import numpy as np
import pytest
from loongforge_models.digits.make_tokenizer import make_tokenizer
from loongforge_models.digits.prepare import prepare, split
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoTokenizer, LlavaProcessor, SiglipImageProcessorPil

from loongforge_core.config.check import load_composition
from loongforge_core.data.conversations import ConversationFiles
from loongforge_core.data.sample import Sample
from loongforge_core.data.training_data import TrainingData
from loongforge_core.errors import DataError
from loongforge_core.model.batch import PLACEHOLDER_ID
from loongforge_core.registry import Registry

TOKENIZER = Path(loongforge_models.__file__).parent / "digits" / "tokenizer"
LABELS = [int(label) for label in load_digits().target]
FILES = ("train.jsonl", "test.jsonl", "settings_train.jsonl", "settings_validation.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    prepare(folder)
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def images(path: Path) -> set[int]:
    return {int(Path(image).stem) for line in lines(path) for image in line.get("images", [])}


# ---------------------------------------------------------------------------------------------------------------- split


def test_the_split_is_fixed() -> None:
    parts = split(LABELS)
    assert (len(parts.training), len(parts.held_out), len(parts.validation)) == (1437, 360, 144)
    assert set(parts.training) | set(parts.held_out) == set(range(1797))
    assert set(parts.validation) < set(parts.training)
    assert (parts.held_out[:6], sum(parts.held_out)) == ((0, 1, 3, 6, 8, 9), 321943)  # whatever this machine's versions


def test_every_digit_has_its_share() -> None:
    parts = split(LABELS)
    for part, share in ((parts.held_out, 360 / 1797), (parts.validation, 144 / 1797)):
        counts, whole = Counter(LABELS[image] for image in part), Counter(LABELS)
        assert all(abs(counts[digit] - whole[digit] * share) <= 1 for digit in range(10))


def test_held_out_images_occur_in_no_training_line(folder: Path) -> None:
    parts = split(LABELS)
    assert images(folder / "train.jsonl") == set(parts.training)
    assert images(folder / "test.jsonl") == set(parts.held_out)
    assert images(folder / "settings_train.jsonl") == set(parts.training) - set(parts.validation)
    assert images(folder / "settings_validation.jsonl") == set(parts.validation)


def test_no_scan_occurs_twice() -> None:
    """Else a held-out image could be a training image under another number."""
    assert len({scan.tobytes() for scan in load_digits().images}) == 1797


# ---------------------------------------------------------------------------------------------------------------- files


def test_images_are_the_scans(folder: Path) -> None:
    assert len(list((folder / "images").iterdir())) == 1797
    for number in (0, 7, 1796):
        with Image.open(folder / f"images/{number:04d}.png") as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            np.testing.assert_array_equal(np.asarray(image, dtype=float), np.rint(load_digits().images[number] * 255 / 16))


def test_kinds_are_mixed(folder: Path) -> None:
    train, test = lines(folder / "train.jsonl"), lines(folder / "test.jsonl")
    assert Counter(line["kind"] for line in train) == {"single_digit": 4000, "two_image_sum": 6000, "text_sum": 2000}
    assert Counter(line["kind"] for line in test) == {"single_digit": 360, "two_image_sum": 360, "text_sum": 100}
    assert {line["kind"] for line in train[:12]} == {"single_digit", "two_image_sum", "text_sum"}  # shuffled
    assert sum(line["messages"][0]["role"] == "system" for line in train) == 200
    assert sum(len(line["messages"]) == 4 for line in train) == 400
    singles = [line["images"][0] for line in test if line["kind"] == "single_digit"]
    assert len(set(singles)) == 360
    assert len({line["messages"][0]["content"] for line in test if line["kind"] == "text_sum"}) == 100


@pytest.mark.parametrize("name", FILES)
def test_answers_are_right_and_images_exist(name: str, folder: Path) -> None:
    for line in lines(folder / name):
        numbers = [LABELS[int(Path(image).stem)] for image in line.get("images", [])]
        assert all(((folder / name).parent / image).exists() for image in line.get("images", []))
        messages = [message for message in line["messages"] if message["role"] != "system"]
        for question, answer in zip(messages[::2], messages[1::2], strict=True):
            assert question["content"].count("<image>") == len(numbers)
            summands = numbers or [int(digit) for digit in re.findall(r"\d", question["content"])]
            assert answer["content"] == str(sum(summands))


def test_the_same_files_every_time(folder: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_second_call_does_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    prepare(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("loongforge_models.digits.prepare.evaluation_questions", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_no_other_is_touched(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    prepare(tmp_path / "empty")
    assert (tmp_path / "empty/train.jsonl").exists()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something else"):
        prepare(tmp_path)


# ------------------------------------------------------------------------------------------------------------ tokenizer


def test_the_committed_tokenizer_is_what_the_script_makes(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in TOKENIZER.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_text() == (TOKENIZER / path.name).read_text(), path.name


def test_a_token_is_a_byte() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    text = "".join(map(chr, range(1, 256))) + " é 漢 😀\r\n"
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert len(tokenizer) <= 264
    assert tokenizer.decode(tokenizer("<|user|>3<|end|><|pad|>")["input_ids"], skip_special_tokens=True) == "3"


def test_the_chat_template_refuses_what_it_does_not_know() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    with pytest.raises(Exception, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)
    with pytest.raises(Exception, match="unknown kind of content: video"):
        tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}], tokenize=False)


# -------------------------------------------------------------------------------------------------------- the whole path


@pytest.fixture(scope="module")
def data(folder: Path) -> TrainingData:
    registry = Registry.discover()
    overrides = [f"data.path={folder}/train.jsonl", f"data.eval_path={folder}/test.jsonl"]
    return TrainingData(load_composition("digits", overrides, registry=registry), registry)


def written(data: TrainingData, sample: Sample) -> str:
    tokenizer = data.maker.template.tokenizer
    return "".join("*" if id == PLACEHOLDER_ID else tokenizer.decode([id]) for id in sample.token_ids.tolist())


def test_a_sample_is_short(data: TrainingData) -> None:
    texts = {written(data, data.maker.sample(data.conversations[index])) for index in range(200)}
    assert any(re.fullmatch(r"<\|user\|>\*{4}Digit\?<\|end\|><\|assistant\|>\d<\|end\|>", text) for text in texts)
    assert any(re.fullmatch(r"<\|user\|>\*{8}Sum\?<\|end\|><\|assistant\|>\d+<\|end\|>", text) for text in texts)
    assert data.maker.template.stop_token_ids == {AutoTokenizer.from_pretrained(TOKENIZER).eos_token_id}


def test_samples_with_two_one_and_no_images_mix_in_a_batch(data: TrainingData) -> None:
    (batch,) = data.batches(0)
    owners = Counter(batch.placements["image"].sample_N.tolist())
    assert Counter(owners.get(row, 0) for row in range(batch.num_samples)).keys() == {0, 4, 8}
    assert batch.items["image"].inputs["pixel_values"].shape == (len(batch.items["image"]), 3, 8, 8)
    assert batch.token_ids_bs.shape[1] <= 20


def test_every_line_fits(data: TrainingData, folder: Path) -> None:
    maker = data.maker
    for name in FILES:
        for conversation in ConversationFiles([folder / name], ["image"]):
            assert maker.sample(conversation).loss_mask.sum() >= 2  # a digit and its end


def test_the_prompt_is_what_a_llava_processor_writes(data: TrainingData, folder: Path) -> None:
    """Of the same messages and files, `transformers` makes the same tokens and the same pixels: an export can be served."""
    published = dict(data.maker.processors["image"].published())
    del published["image_processor_type"]
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    processor = LlavaProcessor(
        SiglipImageProcessorPil(**published),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    conversation = next(one for one in ConversationFiles([folder / "test.jsonl"], ["image"]) if one.kind == "two_image_sum").prompt()
    ours = data.maker.prompt(conversation)
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "url": str(part.path)}
        for part in conversation.messages[0].parts
    ]
    theirs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="np"
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    assert np.where(ours.token_ids == PLACEHOLDER_ID, image_token, ours.token_ids).tolist() == theirs["input_ids"][0].tolist()
    np.testing.assert_array_equal(np.concatenate([item.inputs["pixel_values"] for item in ours.items["image"]]), theirs["pixel_values"])
