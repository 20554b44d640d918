"""Qwen3-VL as a whole, dense and with experts: tokens, positions, levels, logits, gradients and folders are those of transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import (
    VOCAB_SIZE,
    batches_of,
    check_merging,
    check_pixels,
    check_whole_parity,
    check_whole_round_trip,
    compose,
    samples_of,
)
from qwen_vl import PIXELS, TOKEN_IDS, check_processor_files, published, talks_in, tokenizer_in
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loongforge_core.config.composition import Composition
from loongforge_core.data.conversations import parse_conversation
from loongforge_core.data.training_data import load_sample_maker
from loongforge_core.errors import WeightsError
from loongforge_core.generate.greedy import GreedyDecoder
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.layouts import Layout, check_layouts
from loongforge_core.testing.reference import different_tensors, our_model, read_tensors, redraw
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.load import import_model, load_pretrained

ENCODER: dict[str, Any] = {
    "type": "qwen3_vl",
    "also_encodes": ["video"],
    "num_layers": 3,
    "hidden_size": 32,
    "ffn_hidden_size": 40,
    "num_attention_heads": 4,
    "patch_size": 4,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
    "init_method_std": 0.1,
    **PIXELS,
}
FOUNDATION: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 16,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 512,
    "rotary_base": 5e6,
    "mrope_section": [4, 2, 2],
    "mrope_interleaved": True,
    "init_method_std": 0.1,  # with the usual 0.02, gradients of so narrow a model are so small that Adam's steps magnify their rounding
}
EXPERTS: dict[str, Any] = {"num_moe_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 24, "moe_router_load_balancing_type": "none"}

VISION = {"depth": 3, "hidden_size": 32, "intermediate_size": 40, "num_heads": 4, "out_hidden_size": 32, "patch_size": 4}
VISION |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
TEXT = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 512, "head_dim": 16}
TEXT |= {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}}
THEIR_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

CASES: list[dict[str, Any]] = [{}, {"tied": True}, {"experts": True}]


def model(*, tied: bool = False, experts: bool = False) -> dict[str, Any]:
    own = {"type": "qwen3_moe", **EXPERTS} if experts else {"type": "qwen3"}
    foundation = {**own, **FOUNDATION, "untie_embeddings_and_output_weights": not tied}
    projector = {"type": "patch_merger", "normalization": "LayerNorm", "init_method_std": 0.1}
    return {"model_type": "qwen3_vl", "image_encoder": ENCODER, "image_projector": projector, "foundation": foundation}


def composition(tokenizer: Path | None = None, **case: Any) -> Composition:
    return compose(model(**case), tokenizer)


def reference(*, tied: bool = False, experts: bool = False) -> Any:
    if experts:
        config = transformers.Qwen3VLMoeConfig(text_config={**TEXT, **THEIR_EXPERTS}, vision_config=VISION, **TOKEN_IDS)
        return transformers.Qwen3VLMoeForConditionalGeneration(config)
    config = transformers.Qwen3VLConfig(text_config=TEXT, vision_config=VISION, tie_word_embeddings=tied, **TOKEN_IDS)
    return transformers.Qwen3VLForConditionalGeneration(config)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity_through_the_published_processor(case: dict[str, Any], tmp_path: Path) -> None:
    """Of images and videos, several to a sample, padded and packed; a video's steps with their times in words between them."""
    ours = composition(tokenizer_in(tmp_path), **case)
    given = published(transformers.Qwen3VLProcessor, Path(str(ours.run.tokenizer)), talks_in(tmp_path), tmp_path, ours)
    given.check_tokens()
    assert [span.continues for span in given.samples[2].spans] == [False, False, True, True, False]
    check_pixels(given, "image", "pixel_values")
    theirs = reference(**case)
    check_whole_parity(ours, SavedAsPublished(theirs) if case.get("experts") else theirs, given, tmp_path)


def test_an_answer_goes_on_behind_items_as_transformers_generates_it(tmp_path: Path) -> None:
    """Behind an image and two videos, whose positions are fewer than their tokens."""
    ours, theirs = composition(tokenizer_in(tmp_path)), reference()
    redraw(theirs)
    theirs.save_pretrained(tmp_path / "reference")
    talk = talks_in(tmp_path)[2]
    maker = load_sample_maker(ours, Registry.discover())
    prompt = maker.prompt(parse_conversation(talk.line(), ours.modalities, folder=tmp_path, where="a talk").prompt())
    ids = torch.tensor(prompt.token_ids)[None]
    types = torch.zeros_like(ids)
    for span in prompt.spans:
        run = slice(span.start, span.start + span.num_tokens)
        ids[0, run], types[0, run] = TOKEN_IDS[f"{span.modality}_token_id"], {"image": 1, "video": 2}[span.modality]
    pixels = {
        modality: torch.cat([torch.from_numpy(item.inputs["pixel_values"]) for item in items]) for modality, items in prompt.items.items()
    }
    grids = {modality: torch.tensor([item.size for item in items]) for modality, items in prompt.items.items()}
    expected = theirs.generate(
        input_ids=ids,
        mm_token_type_ids=types,
        pixel_values=pixels["image"],
        image_grid_thw=grids["image"],
        pixel_values_videos=pixels["video"],
        video_grid_thw=grids["video"],
        max_new_tokens=6,
        do_sample=False,
    )
    with our_model(ours) as built:
        import_model(tmp_path / "reference", built.target, ours, Registry.discover())
        (answer,) = GreedyDecoder(maker, built.model, max_new_tokens=6).decode([prompt], stop=())
    assert answer == expected[0, ids.shape[1] :].tolist()
    assert len(set(answer)) > 1


LAYOUTS = [
    Layout(tensor=2, sequence_parallel=True),
    Layout(pipeline=2, encoder_stage=True),
    Layout(data=2, tensor=2, sequence_parallel=True, encoders={"image_encoder": 2}, optimizer="distributed"),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", [{"tied": True}, {"experts": True}], ids=str)
def test_every_layout_equals_one_process(case: dict[str, Any], tmp_path: Path) -> None:
    """Images and videos through one encoder, with levels, a table that is tied or experts, and positions of three axes."""
    ours = composition(tokenizer_in(tmp_path), **case)
    batches = batches_of(samples_of(ours, talks_in(tmp_path), tmp_path))
    more = [Layout(tensor=2, expert=2, expert_tensor=1, sequence_parallel=True)] if case.get("experts") else []
    check_layouts(ours, [*LAYOUTS, *more], batches)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_round_trip(case: dict[str, Any], tmp_path: Path) -> None:
    ours = composition(tokenizer_in(tmp_path), **case)
    export = check_whole_round_trip(ours, reference(**case), tmp_path, same=as_published)
    check_processor_files(export, ours, "Qwen3VLProcessor", "Qwen3VLVideoProcessor")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parts_become_one_starting_folder(case: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a tower, whose folder has the mergers too, and of a language model that has read nothing but text."""
    tower = reference().model.visual
    rotary = {"rope_type": "default", "rope_theta": 5e6}
    text = {**TEXT, "rope_parameters": rotary, "tie_word_embeddings": case.get("tied", False)}
    if case.get("experts"):
        language = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**text, **THEIR_EXPERTS, norm_topk_prob=True))
    else:
        language = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**text))
    for name, part in {"tower": tower, "language": language}.items():
        redraw(part)
        part.save_pretrained(tmp_path / name)
    folders = {"image_encoder": tmp_path / "tower", "image_projector": tmp_path / "tower", "foundation": tmp_path / "language"}
    parts = {"model.visual.": tower, "model.language_model.": language.model, "lm_head.": language.lm_head}
    check_merging(model(**case), folders, parts, tmp_path, tokenizer_in(tmp_path))
    said = capsys.readouterr().err
    assert "merging image_encoder, image_projector, foundation" in said and "not trained" not in said


@pytest.mark.parametrize("tower_alone", [False, True])
def test_mergers_are_read_out_of_a_larger_folder(tower_alone: bool, tmp_path: Path) -> None:
    theirs = reference(experts=True)
    redraw(theirs)
    (theirs.model.visual if tower_alone else theirs).save_pretrained(tmp_path)
    ours = compose({**model(), "image_projector": {**model()["image_projector"], "pretrained": str(tmp_path)}})
    with our_model(ours) as built:
        filled = load_pretrained(built.target, ours, Registry.discover())
        assert filled == {f"image_projector.{name}" for name in built.target["image_projector"].state_dict()}
        mergers = built.target["image_projector"].level_mergers
        assert torch.equal(mergers[1].linear_fc2.weight, theirs.model.visual.deepstack_merger_list[1].linear_fc2.weight)


def test_mergers_of_another_tower_are_refused(tmp_path: Path) -> None:
    """With more levels: none of them is left behind unnoticed."""
    vision = {**VISION, "deepstack_visual_indexes": [0, 1, 2]}
    tower = transformers.Qwen3VLVisionModel(transformers.Qwen3VLVisionConfig(**vision))
    tower.save_pretrained(tmp_path)
    ours = compose({**model(), "image_projector": {**model()["image_projector"], "pretrained": str(tmp_path)}})
    with our_model(ours) as built, pytest.raises(WeightsError, match="deepstack_visual_indexes is 3 in the file") as raised:
        load_pretrained(built.target, ours, Registry.discover())
    assert "extra tensor deepstack_merger_list.2.linear_fc1.bias" in str(raised.value)


class SavedAsPublished(nn.Module):
    """A model whose folders have their stacks of experts as they are published."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Any:
        return self.model(**inputs)

    def save_pretrained(self, folder: Path) -> None:
        self.model.save_pretrained(folder.with_name("version_5"))
        shutil.move(as_published(folder.with_name("version_5")), folder)


def as_published(folder: Path) -> Path:
    """A folder of version 5 with its stacks of experts as they are published."""
    copy = shutil.copytree(folder, folder.with_name("published"))
    tensors = {
        name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor
        for name, tensor in load_file(copy / "model.safetensors").items()
    }
    save_file(tensors, copy / "model.safetensors")
    return copy


def test_published_folders_of_experts_are_read(tmp_path: Path) -> None:
    """With matrices the other way round than version 5 saves them, and with an earlier type of the vision section."""
    theirs, ours = reference(experts=True), composition(experts=True)
    redraw(theirs)
    theirs.save_pretrained(tmp_path / "saved")
    folder = as_published(tmp_path / "saved")
    assert read_tensors(folder)["model.language_model.layers.0.mlp.experts.gate_up_proj"].shape == (4, 32, 48)
    tree = json.loads((folder / "config.json").read_text())
    tree["vision_config"]["model_type"] = "qwen3_vl_moe"
    text = tree["text_config"]
    text |= {"num_experts": text.pop("num_local_experts"), "norm_topk_prob": True, "rope_scaling": text.pop("rope_parameters")}
    text |= {"rope_theta": text["rope_scaling"].pop("rope_theta")}
    (folder / "config.json").write_text(json.dumps(tree))
    with our_model(ours) as built:
        import_model(folder, built.target, ours, Registry.discover())
        experts = built.target["foundation"].decoder.layers[1].mlp.experts.local_experts
        stacks = theirs.model.language_model.layers[1].mlp.experts
        assert torch.equal(torch.stack([expert.linear_fc1.weight for expert in experts]), stacks.gate_up_proj)
        assert torch.equal(torch.stack([expert.linear_fc2.weight for expert in experts]), stacks.down_proj)


def test_a_square_stack_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Nobody can see whether it was turned: transformers takes it as it is, and so must we, in both directions."""
    config = reference(experts=True).config
    config.text_config.moe_intermediate_size = config.text_config.hidden_size // 2
    theirs = transformers.Qwen3VLMoeForConditionalGeneration(config)
    redraw(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    square = model(experts=True)
    square["foundation"]["moe_ffn_hidden_size"] = square["foundation"]["hidden_size"] // 2
    ours, registry = compose(square, tokenizer_in(tmp_path)), Registry.discover()
    with our_model(ours) as built:
        import_model(tmp_path / "theirs", built.target, ours, registry)
        expert = built.target["foundation"].decoder.layers[0].mlp.experts.local_experts[1]
        assert torch.equal(expert.linear_fc1.weight, theirs.model.language_model.layers[0].mlp.experts.gate_up_proj[1])
        export_hf(built.target, ours, registry, tmp_path / "export", tokenizer=ours.run.tokenizer)
    loaded = transformers.Qwen3VLMoeForConditionalGeneration.from_pretrained(tmp_path / "export")
    assert not different_tensors(dict(theirs.state_dict()), dict(loaded.state_dict()))


def test_a_stack_of_another_shape_is_refused(tmp_path: Path) -> None:
    reference(experts=True).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.language_model.layers.0.mlp.experts.down_proj"
    save_file({**tensors, name: tensors[name][:, 1:].clone()}, tmp_path / "model.safetensors")
    ours = composition(experts=True)
    with our_model(ours) as built, pytest.raises(WeightsError, match=rf"{name} has the shape \[4, 31, 24\], expected \[4, 24, 32\]"):
        import_model(tmp_path, built.target, ours, Registry.discover())
