"""InternVL as a whole: tokens, logits, gradients and folders are those of transformers; OpenGVLab's folders are read and written too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import (
    VOCAB_SIZE,
    Given,
    Talk,
    check_pixels,
    check_whole_parity,
    check_whole_round_trip,
    compose,
    samples_of,
    save_image,
    save_tokenizer,
    token_id,
    without_videos,
)
from transformers.image_utils import load_image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import different_tensors, our_model, read_tensors, redraw
from loongforge_core.weights.export_hf import export_component, export_hf
from loongforge_core.weights.load import import_model

TOKENS = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
NAMED = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
# Written after the template of the folders for transformers, and after InternLM2's, which OpenGVLab's folders have.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

ENCODER: dict[str, Any] = {
    "type": "intern_vit",
    "also_encodes": ["video"],
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 40,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 2,
    "max_tiles": 4,
}
LARGE = {"normalization": "RMSNorm", "add_qkv_bias": False, "qk_layernorm": True}
"""What differs in InternViT-6B."""
FOUNDATION = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "num_query_groups": 2}
FOUNDATION |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 512, "rotary_base": 1e6}

VISION = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "attention_bias": True}
VISION |= {"image_size": [8, 8], "patch_size": [2, 2]}
THEIR_LARGE = {"norm_type": "rms_norm", "attention_bias": False, "use_qk_norm": True}
TEXT = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 512, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
EXPERTS = {"num_moe_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 24, "moe_router_load_balancing_type": "none"}
THEIR_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
TEXTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen2": ({}, {}),
    "qwen3": ({"kv_channels": 16}, {"head_dim": 16}),
    "qwen3_moe": (EXPERTS, THEIR_EXPERTS),
    "internlm2": ({"rotary_scaling": {"type": "dynamic", "factor": 2.0}}, {}),
}

CASES: list[dict[str, Any]] = [{}, {"large": True, "text": "qwen3"}, {"text": "qwen3_moe"}, {"tied": True}]


def composition(tokenizer: Path | None = None, *, large: bool = False, text: str = "qwen2", tied: bool = False) -> Composition:
    foundation = {"type": text, **FOUNDATION, **TEXTS[text][0], "untie_embeddings_and_output_weights": not tied}
    encoder = {**ENCODER, **(LARGE if large else {})}
    projector = {"type": "intern_mlp"}
    return compose({"model_type": "intern_vl", "image_encoder": encoder, "image_projector": projector, "foundation": foundation}, tokenizer)


def reference(*, large: bool = False, text: str = "qwen2", tied: bool = False) -> Any:
    config = transformers.InternVLConfig(
        vision_config={**VISION, **(THEIR_LARGE if large else {})},
        text_config={"model_type": text, **TEXT, **TEXTS[text][1], "tie_word_embeddings": tied},
        tie_word_embeddings=tied,
        image_token_id=token_id("<IMG_CONTEXT>", TOKENS),
        image_seq_length=4,
    )
    return transformers.InternVLForConditionalGeneration(config)


def tokenizer_in(folder: Path, template: str = TEMPLATE) -> Path:
    named = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "extra_special_tokens": NAMED}
    return save_tokenizer(folder / "tokenizer", TOKENS, template, **named)


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


# ------------------------------------------------------------------------------------------------------- OpenGVLab's own folders


def test_the_same_weights_in_both_formats(tmp_path: Path) -> None:
    """Written in OpenGVLab's format, under its published names, and read again: the same tensors in transformers' format as before."""
    theirs, ours = reference(), composition()
    redraw(theirs)
    theirs.save_pretrained(tmp_path / "transformers")
    for folder in ("opengvlab", "back"):
        (tmp_path / folder).mkdir()
    with our_model(ours) as built:
        import_model(tmp_path / "transformers", built.target, ours, Registry.discover())
        export_component(tmp_path / "opengvlab", built.target, built.table.alternatives["OpenGVLab"], built.config)
        redraw(built.model, seed=1)
        import_model(tmp_path / "opengvlab", built.target, ours, Registry.discover())
        export_component(tmp_path / "back", built.target, built.table, built.config)
    assert not different_tensors(read_tensors(tmp_path / "transformers"), read_tensors(tmp_path / "back"))
    names = read_tensors(tmp_path / "opengvlab").keys()
    assert not PUBLISHED_NAMES - names
    assert {name.split(".")[0] for name in names} == {"vision_model", "mlp1", "language_model"}


PUBLISHED_NAMES = {
    "vision_model.embeddings.class_embedding",
    "vision_model.embeddings.position_embedding",
    "vision_model.encoder.layers.1.attn.qkv.bias",
    "vision_model.encoder.layers.1.ls2",
    "mlp1.0.weight",
    "mlp1.1.bias",
    "mlp1.3.weight",
    "language_model.lm_head.weight",
    "language_model.model.layers.1.self_attn.k_proj.bias",
}

PUBLISHED_CONFIG = {
    "_commit_hash": None,
    "architectures": ["InternVLChatModel"],
    "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
    "downsample_ratio": 0.5,
    "dynamic_image_size": True,
    "force_image_size": 8,
    "max_dynamic_patch": 4,
    "min_dynamic_patch": 1,
    "model_type": "internvl_chat",
    "ps_version": "v2",
    "select_layer": -1,
    "template": "internvl2_5",
    "torch_dtype": "bfloat16",
    "transformers_version": None,
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    "use_thumbnail": True,
}
"""What a published folder of InternVL2.5-8B says beside its two sections, at the size of these tests."""


def test_internlm2_is_exported_as_opengvlab_publishes_it(tmp_path: Path) -> None:
    ours, registry = composition(text="internlm2"), Registry.discover()
    tokenizer = tokenizer_in(tmp_path, TEXT_TEMPLATE)
    with our_model(ours) as built:
        export_hf(built.target, ours, registry, tmp_path / "export", tokenizer=tokenizer)
        config = json.loads((tmp_path / "export" / "config.json").read_text())
        sections = {"llm_config": config["llm_config"], "vision_config": config["vision_config"]}
        assert (sections["llm_config"]["model_type"], sections["vision_config"]["model_type"]) == ("internlm2", "intern_vit_6b")
        sections["llm_config"] |= {
            "attn_implementation": "flash_attention_2",
            "auto_map": {"AutoConfig": "a.B"},
            "tie_word_embeddings": False,
        }
        (tmp_path / "export" / "config.json").write_text(json.dumps({**PUBLISHED_CONFIG, **sections}))
        before = {name: parameter.clone() for name, parameter in built.model.named_parameters()}
        redraw(built.model, seed=1)
        import_model(tmp_path / "export", built.target, ours, registry)
        assert not different_tensors(before, dict(built.model.named_parameters()))
    assert "language_model.model.tok_embeddings.weight" in read_tensors(tmp_path / "export")


def test_an_opengvlab_folder_that_disagrees_is_refused(tmp_path: Path) -> None:
    ours = composition()
    (tmp_path / "folder").mkdir()
    with our_model(ours) as built:
        export_component(tmp_path / "folder", built.target, built.table.alternatives["OpenGVLab"], built.config)
        config = json.loads((tmp_path / "folder" / "config.json").read_text())
        (tmp_path / "folder" / "config.json").write_text(json.dumps({**config, "ps_version": "v1", "max_dynamic_patch": 6}))
        with pytest.raises(WeightsError, match=r"ps_version is 'v1' in the file; only 'v2' is supported") as raised:
            import_model(tmp_path / "folder", built.target, ours, Registry.discover())
        assert "max_dynamic_patch is 6 in the file, but our image_encoder.max_tiles says 4" in str(raised.value)


def test_the_marks_go_into_text_where_a_template_takes_no_parts(tmp_path: Path) -> None:
    """OpenGVLab's way: `<image>` in the text becomes the image's tokens between their marks."""
    ours = composition(tokenizer_in(tmp_path, TEXT_TEMPLATE))
    (sample,) = samples_of(ours, [Talk([("image", save_image(tmp_path / "a.png", 8, 8, seed=1)), "\nWhat?"], "Noise")], tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    text = tokenizer.decode([token_id("<IMG_CONTEXT>", TOKENS) if id < 0 else id for id in sample.token_ids.tolist()])
    image = "<img>" + "<IMG_CONTEXT>" * 4 + "</img>"
    assert text == f"<|im_start|>user\n{image}\nWhat?<|im_end|>\n<|im_start|>assistant\nNoise<|im_end|>\n"
