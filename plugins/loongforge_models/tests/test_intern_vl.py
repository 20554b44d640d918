"""InternVL as a whole: tokens, logits, gradients and folders are those of transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import (
    Given,
    Talk,
    check_merging,
    check_pixels,
    check_whole_parity,
    check_whole_round_trip,
    samples_of,
    save_image,
    save_tokenizer,
    token_id,
    without_videos,
)
from intern_vl import CASES, TEMPLATE, TEXT_TEMPLATE, TOKENS, composition, model, reference, tokenizer_in
from transformers.image_utils import load_image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from loongforge_core.config.composition import Composition
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import our_model, redraw
from loongforge_core.weights.export_hf import export_component, export_hf
from loongforge_core.weights.formats import slot_table
from loongforge_core.weights.load import import_model


def talks_in(folder: Path) -> list[Talk]:
    """Images of one and of several tiles, several to a sample, one at the beginning; a video beside one; text alone."""
    wide, tall, small = (save_image(folder / f"{h}x{w}.png", h, w, seed=h) for h, w in ((16, 40), (33, 17), (9, 9)))
    (folder / "film").mkdir()
    for frame in range(3):
        save_image(folder / "film" / f"{frame}.png", 12, 20, seed=100 + frame)
    return [
        Talk(["What is ", ("image", wide), " beside ", ("image", tall), "?"], "Noise."),
        Talk(["Hi"], "Hello there"),
        Talk([("image", small), "And this? ", ("video", "film"), "And ", ("image", tall)], "More"),
    ]


def published(talks: list[Talk], folder: Path, ours: Composition) -> Given:
    tokenizer = transformers.AutoTokenizer.from_pretrained(Path(str(ours.run.tokenizer)))
    image_processor = GotOcr2ImageProcessorPil(
        size={"height": 8, "width": 8},
        crop_to_patches=True,
        max_patches=4,
        image_mean=ours.encoder("image").image_mean,
        image_std=ours.encoder("image").image_std,
    )
    processor = without_videos(transformers.InternVLProcessor)(
        image_processor=image_processor, tokenizer=tokenizer, image_seq_length=4, chat_template=TEMPLATE
    )
    samples = samples_of(ours, talks, folder)
    images = image_processor([load_image(str(folder / path)) for talk in talks for path in talk.items("image")], return_tensors="pt")
    # Its video processor needs torchvision: frames are ours, which are compared with it elsewhere.
    videos = [torch.from_numpy(item.inputs["pixel_values"]) for sample in samples for item in sample.items.get("video", ())]
    texts, _ = processor.get_text_with_replacements(
        [processor.apply_chat_template(talk.chat(), tokenize=False) for talk in talks],
        [processor.replace_image_token(images, image_idx=index) for index in range(len(images["num_patches"]))],
        [processor.replace_video_token({"pixel_values_videos": videos}, video_idx=index) for index in range(len(videos))],
    )
    inputs = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    tiles = {"image": iter(images["pixel_values"].split(images["num_patches"].tolist())), "video": iter(videos)}
    order = [part[0] for talk in talks for part in talk.parts if isinstance(part, tuple)]
    pixels = {"images": images["pixel_values"], "pixel_values": torch.cat([next(tiles[modality]) for modality in order])}
    context = token_id("<IMG_CONTEXT>", TOKENS)
    names = ("input_ids", "attention_mask")
    return Given(samples, {**{name: inputs[name] for name in names}, **pixels}, {"image": context, "video": context})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity_through_the_published_processor(case: dict[str, Any], tmp_path: Path) -> None:
    """Of images of one and several tiles and of a video, several to a sample, padded and packed."""
    ours = composition(tokenizer_in(tmp_path), **case)
    given = published(talks_in(tmp_path), tmp_path, ours)
    given.check_tokens()
    assert [span.grid[0] for sample in given.samples for span in sample.spans] == [4, 3, 1, 1, 1, 1, 3]
    check_pixels(given, "image", "images")
    inputs = {name: tensor for name, tensor in given.inputs.items() if name != "images"}
    check_whole_parity(ours, reference(**case), replace(given, inputs=inputs), tmp_path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_round_trip(case: dict[str, Any], tmp_path: Path) -> None:
    export = check_whole_round_trip(composition(tokenizer_in(tmp_path), **case), reference(**case), tmp_path)
    loaded = transformers.AutoImageProcessor.from_pretrained(export)
    assert isinstance(loaded, GotOcr2ImageProcessorPil) and loaded.crop_to_patches
    assert json.loads((export / "processor_config.json").read_text()) == {"processor_class": "InternVLProcessor", "image_seq_length": 4}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parts_become_one_starting_folder(case: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a tower, a language model, and a projector that nobody publishes alone: its folder is of our own export."""
    theirs = reference(**case)
    redraw(theirs)
    text = theirs.config.text_config
    text.tie_word_embeddings = case.get("tied", False)
    language = transformers.AutoModelForCausalLM.from_config(text)
    redraw(language, seed=1)
    theirs.model.vision_tower.save_pretrained(tmp_path / "tower")
    language.save_pretrained(tmp_path / "language")
    theirs.save_pretrained(tmp_path / "whole")
    ours, registry = composition(**case), Registry.discover()
    with our_model(ours) as built:
        import_model(tmp_path / "whole", built.target, ours, registry)
        projector = built.target["image_projector"]
        (tmp_path / "projector").mkdir()
        table = slot_table(ours.slots["image_projector"].spec, projector, registry)
        export_component(tmp_path / "projector", projector, table, projector.config)
    folders = {"image_encoder": tmp_path / "tower", "image_projector": tmp_path / "projector", "foundation": tmp_path / "language"}
    parts = {
        "model.vision_tower.": theirs.model.vision_tower,
        "model.multi_modal_projector.": theirs.model.multi_modal_projector,
        "model.language_model.": language.model,
        "lm_head.": language.lm_head,
    }
    check_merging(model(**case), folders, parts, tmp_path, tokenizer_in(tmp_path))
    said = capsys.readouterr().err
    assert "merging image_encoder, image_projector, foundation" in said and "not trained" not in said


@pytest.mark.parametrize("more", [{}, {"extra_special_tokens": ["<|im_start|>"]}], ids=["as before version 5", "as saved by version 5"])
def test_an_export_names_the_tokens_that_the_processor_asks_the_tokenizer_for(more: dict[str, Any], tmp_path: Path) -> None:
    """OpenGVLab's tokenizers have no names for them, and no token for a video."""
    named = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    tokenizer = save_tokenizer(tmp_path / "tokenizer", TOKENS[:-1], TEMPLATE, **named, **more)
    ours = composition(tokenizer)
    with our_model(ours) as built:
        export_hf(built.target, ours, Registry.discover(), tmp_path / "export", tokenizer=tokenizer)
    processor = without_videos(transformers.InternVLProcessor)(
        image_processor=transformers.AutoImageProcessor.from_pretrained(tmp_path / "export"),
        tokenizer=transformers.AutoTokenizer.from_pretrained(tmp_path / "export"),
        image_seq_length=4,
    )
    path = tmp_path / save_image(tmp_path / "a.png", 8, 8, seed=1)
    given = processor(text=["<IMG_CONTEXT>\nWhat?"], images=[load_image(str(path))])["input_ids"]
    assert processor.tokenizer.decode(given[0]) == "<img>" + "<IMG_CONTEXT>" * 4 + "</img>\nWhat?"
    assert processor.video_token == "<video>"
    assert set(more.get("extra_special_tokens", ())) <= set(processor.tokenizer.all_special_tokens)


def test_the_marks_go_into_text_where_a_template_takes_no_parts(tmp_path: Path) -> None:
    """OpenGVLab's way: `<image>` in the text becomes the image's tokens between their marks."""
    ours = composition(tokenizer_in(tmp_path, TEXT_TEMPLATE))
    (sample,) = samples_of(ours, [Talk([("image", save_image(tmp_path / "a.png", 8, 8, seed=1)), "\nWhat?"], "Noise")], tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    text = tokenizer.decode([token_id("<IMG_CONTEXT>", TOKENS) if id < 0 else id for id in sample.token_ids.tolist()])
    image = "<img>" + "<IMG_CONTEXT>" * 4 + "</img>"
    assert text == f"<|im_start|>user\n{image}\nWhat?<|im_end|>\n<|im_start|>assistant\nNoise<|im_end|>\n"
