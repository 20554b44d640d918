"""What the tests of Qwen's vision-language models share: conversations, and what the published processor makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from families import Given, Talk, samples_of, save_image, save_tokenizer, token_id, without_videos
from transformers.image_utils import load_image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.video_utils import VideoMetadata

from loongforge_core.config.composition import Composition

TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# Written after the published templates: content as a string or as parts, images and videos between the two marks.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKEN_IDS = {f"{name}_token_id": token_id(f"<|{name}_pad|>", TOKENS) for name in ("image", "video")}
TOKEN_IDS |= {f"{name}_token_id": token_id(f"<|{name}|>", TOKENS) for name in ("vision_start", "vision_end")}

PIXELS = {"min_pixels": 64, "max_pixels": 1024, "video_min_pixels": 65, "video_max_pixels": 1025}
FILMS = {"film": VideoMetadata(total_num_frames=5, fps=2.0, frames_indices=[0, 1, 2, 3, 4])}
FILMS |= {"clip.json": VideoMetadata(total_num_frames=2, fps=3.0, frames_indices=[0, 1])}


def tokenizer_in(folder: Path) -> Path:
    return save_tokenizer(folder / "tokenizer", TOKENS, TEMPLATE, eos_token="<|im_end|>", pad_token="<|im_end|>")


def talks_in(folder: Path) -> list[Talk]:
    """Images of unequal shapes, several to a sample, one at the beginning; two videos, one with an odd number of frames; text alone."""
    wide, tall, small = (save_image(folder / f"{h}x{w}.png", h, w, seed=h) for h, w in ((16, 40), (33, 17), (9, 9)))
    (folder / "film").mkdir()
    for frame in range(5):
        save_image(folder / "film" / f"{frame}.png", 16, 24, seed=100 + frame)
    frames = [save_image(folder / f"{frame}.png", 24, 16, seed=200 + frame) for frame in range(2)]
    (folder / "clip.json").write_text(json.dumps({"frames": frames, "fps": 3.0}))
    return [
        Talk(["What is ", ("image", wide), " beside ", ("image", tall), "?"], "Noise."),
        Talk(["Hi"], "Hello there"),
        Talk([("image", small), "How long is ", ("video", "film"), " after ", ("video", "clip.json"), "?"], "2 s"),
    ]


def published(processor_class: type[Any], tokenizer: Path, talks: Sequence[Talk], folder: Path, ours: Composition) -> Given:
    """What the published processor makes of the same conversations.

    Its video processor needs torchvision: patches of videos are ours, which are compared with it elsewhere, and of it no more than two
    numbers are needed here.
    """
    samples = samples_of(ours, talks, folder)
    encoder = ours.encoder("image")
    size = {"shortest_edge": PIXELS["min_pixels"], "longest_edge": PIXELS["max_pixels"]}
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=encoder.patch_size,
        temporal_patch_size=encoder.temporal_patch_size,
        size=size,
        image_mean=encoder.image_mean,
        image_std=encoder.image_std,
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tokenizer)
    processor = without_videos(processor_class)(image_processor=image_processor, tokenizer=theirs, chat_template=TEMPLATE)
    processor.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=encoder.temporal_patch_size)
    images = image_processor([load_image(str(folder / path)) for talk in talks for path in talk.items("image")], return_tensors="pt")
    films = [path for talk in talks for path in talk.items("video")]
    videos = {
        "video_grid_thw": torch.tensor([item.size for sample in samples for item in sample.items.get("video", ())]),
        "video_metadata": [FILMS[film] for film in films],
    }
    texts, _ = processor.get_text_with_replacements(
        [processor.apply_chat_template(talk.chat(), tokenize=False) for talk in talks],
        [processor.replace_image_token(images, image_idx=index) for index in range(len(images["image_grid_thw"]))],
        [processor.replace_video_token(videos, video_idx=index) for index in range(len(films))],
    )
    inputs = theirs(texts, padding=True, padding_side="right", return_tensors="pt")
    pixels = [torch.from_numpy(item.inputs["pixel_values"]) for sample in samples for item in sample.items.get("video", ())]
    return Given(
        samples=samples,
        inputs={
            "input_ids": inputs["input_ids"],
            "attention_mask": inputs["attention_mask"],
            "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids(inputs["input_ids"].tolist())),
            **images,
            "pixel_values_videos": torch.cat(pixels),
            "video_grid_thw": videos["video_grid_thw"],
        },
        placeholders={name: TOKEN_IDS[f"{name}_token_id"] for name in ("image", "video")},
    )


def check_processor_files(export: Path, ours: Composition, processor_class: str, video_processor_class: str) -> None:
    """The tokenizer with its template, the image processor, the name of the whole.

    The video processor's file is only read as text here: transformers cannot load it without torchvision.
    """
    encoder = ours.encoder("image")
    loaded = transformers.AutoImageProcessor.from_pretrained(export)
    assert isinstance(loaded, Qwen2VLImageProcessorPil)
    assert (loaded.patch_size, loaded.merge_size, loaded.temporal_patch_size) == (encoder.patch_size, 2, 2)
    assert (loaded.size["shortest_edge"], loaded.size["longest_edge"]) == (PIXELS["min_pixels"], PIXELS["max_pixels"])
    assert (list(loaded.image_mean), list(loaded.image_std)) == (encoder.image_mean, encoder.image_std)
    assert transformers.AutoTokenizer.from_pretrained(export).chat_template == TEMPLATE
    assert json.loads((export / "processor_config.json").read_text()) == {"processor_class": processor_class}
    video = json.loads((export / "video_preprocessor_config.json").read_text())
    assert (video["video_processor_type"], video["patch_size"], video["merge_size"]) == (video_processor_class, encoder.patch_size, 2)
    assert video["size"] == {"shortest_edge": PIXELS["video_min_pixels"], "longest_edge": PIXELS["video_max_pixels"]}
    config: Mapping[str, Any] = json.loads((export / "config.json").read_text())
    assert {name: config[name] for name in TOKEN_IDS} == TOKEN_IDS
