"""The exported digits model, by `transformers` alone: the folder, PNG files and messages; never our tensors or our code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from loongforge_core.cli.main import main

pytestmark = pytest.mark.slow

STEPS = 150
"""Enough that answers differ from question to question; right they need not be."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short `loongforge train digits`, evaluated on the held-out images."""
    output = tmp_path_factory.mktemp("digits") / "run"
    small = [f"train.steps={STEPS}", "train.global_batch_size=32", "train.micro_batch_size=32", "train.lr_warmup_steps=10"]
    assert main(["train", "digits", f"output_dir={output}", *small]) == 0
    return output


def as_messages(predicted: dict[str, Any]) -> list[dict[str, Any]]:
    """One turn with its images, as a client of a server writes it."""
    paths = iter(item["path"] for item in predicted["items"])
    parts = [part for part in re.split(r"(<image>)", predicted["question"]) if part]
    content = [{"type": "image", "path": next(paths)} if part == "<image>" else {"type": "text", "text": part} for part in parts]
    return [{"role": "user", "content": content}]


def test_the_folder_alone_answers_as_we_do(run: Path) -> None:
    processor = AutoProcessor.from_pretrained(run / "hf")
    model = LlavaForConditionalGeneration.from_pretrained(run / "hf").eval()
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    chosen = lines[::17]
    assert {line["kind"] for line in chosen} == {"single_digit", "two_image_sum", "text_sum"}
    assert len({line["answer"] for line in chosen}) > 3
    for line in chosen:
        inputs = processor.apply_chat_template(
            as_messages(line), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=8)
        answer = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == line["answer"], line


def test_nothing_is_left_to_guess(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`from_pretrained` finds every tensor and no other, and says nothing."""
    with caplog.at_level("WARNING"):
        _, told = LlavaForConditionalGeneration.from_pretrained(run / "hf", output_loading_info=True)
    assert {name: found for name, found in told.items() if found} == {}
    assert caplog.records == []
