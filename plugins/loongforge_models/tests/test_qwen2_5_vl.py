"""Qwen2.5-VL as a whole: tokens, positions, logits, gradients and folders are those of transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import VOCAB_SIZE, check_merging, check_pixels, check_whole_parity, check_whole_round_trip, compose, respell
from qwen_vl import PIXELS, TOKEN_IDS, check_processor_files, published, talks_in, tokenizer_in

from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import our_model, redraw
from loongforge_core.weights.load import import_model

MODEL: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "image_encoder": {
        "type": "qwen2_5_vl",
        "also_encodes": ["video"],
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 40,
        "num_attention_heads": 4,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        **PIXELS,
    },
    "image_projector": {"type": "patch_merger"},
    "foundation": {
        "type": "qwen2",
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 48,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 512,
        "mrope_section": [2, 1, 1],
    },
}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 40, "num_heads": 4, "out_hidden_size": 32, "patch_size": 4}
VISION |= {"window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2}
TEXT = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 512, "rms_norm_eps": 1e-6}
ROTARY = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}


def model(*, tied: bool = False) -> dict[str, Any]:
    return {**MODEL, "foundation": {**MODEL["foundation"], "untie_embeddings_and_output_weights": not tied}}


def composition(tokenizer: Path | None = None, *, tied: bool = False) -> Composition:
    return compose(model(tied=tied), tokenizer)


def reference(*, tied: bool = False) -> Any:
    text = {**TEXT, "rope_parameters": ROTARY}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=VISION, tie_word_embeddings=tied, **TOKEN_IDS)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def test_parity_through_the_published_processor(tmp_path: Path) -> None:
    """Of images and videos, several to a sample, padded and packed."""
    ours = composition(tokenizer_in(tmp_path))
    given = published(transformers.Qwen2_5_VLProcessor, Path(str(ours.run.tokenizer)), talks_in(tmp_path), tmp_path, ours)
    given.check_tokens()
    check_pixels(given, "image", "pixel_values")
    videos = [item for sample in given.samples for item in sample.items.get("video", ())]
    seconds = torch.tensor([item.details["seconds_per_step"] for item in videos])
    check_whole_parity(ours, reference(), replace(given, inputs={**given.inputs, "second_per_grid_ts": seconds}), tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tied: bool, tmp_path: Path) -> None:
    ours = composition(tokenizer_in(tmp_path), tied=tied)
    export = check_whole_round_trip(ours, reference(tied=tied), tmp_path)
    check_processor_files(export, ours, "Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor")


def published_config(folder: Path, **changes: Any) -> None:
    """Rewrites config.json as published folders have it: the text's keys at the top, spelled as before version 5."""
    tree = json.loads((folder / "config.json").read_text())
    text, vision = tree.pop("text_config"), tree["vision_config"]
    del text["model_type"], text["layer_types"], text["rope_parameters"], vision["model_type"], vision["rope_parameters"]
    vision |= {"in_chans": vision.pop("in_channels"), "spatial_patch_size": vision["patch_size"]}
    text |= {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}, "sliding_window": 32768}
    (folder / "config.json").write_text(json.dumps({**tree, **text, "vision_token_id": 260, **changes}))


@pytest.mark.parametrize("tied", [False, True])
def test_parts_become_one_starting_folder(tied: bool, tmp_path: Path) -> None:
    """Of a tower, whose folder has the merger too, and of a language model that has read nothing but text."""
    tower, rotary = reference().model.visual, {"rope_type": "default", "rope_theta": 1e6}
    language = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**TEXT, rope_parameters=rotary, tie_word_embeddings=tied))
    for name, part in {"tower": tower, "language": language}.items():
        redraw(part)
        part.save_pretrained(tmp_path / name)
    folders = {"image_encoder": tmp_path / "tower", "image_projector": tmp_path / "tower", "foundation": tmp_path / "language"}
    parts = {"model.visual.": tower, "model.language_model.": language.model, "lm_head.": language.lm_head}
    check_merging(model(tied=tied), folders, parts, tmp_path, tokenizer_in(tmp_path))


def config_of_version_4(folder: Path, *, top: bool) -> None:
    """Rewrites config.json as versions 4.52 to 4.57 saved it: the text's keys in their section, of which 4.57 repeats none at the `top`."""
    tree = json.loads((folder / "config.json").read_text())
    published_config(folder)
    earlier = json.loads((folder / "config.json").read_text())
    kept = {name: earlier[name] for name in (*TOKEN_IDS, "vision_token_id", "architectures", "model_type", "tie_word_embeddings")}
    text = {name: earlier[name] for name in (*tree["text_config"], "rope_theta", "sliding_window") if name in earlier}
    text["rope_scaling"] = {"type": "default", "rope_type": "default", "mrope_section": [2, 1, 1]}
    text |= {"architectures": earlier["architectures"], "model_type": "qwen2_5_vl_text", "layer_types": ["full_attention"] * 2}
    text |= {"image_token_id": None, "video_token_id": None}
    text |= {name: earlier[name] for name in ("vision_start_token_id", "vision_end_token_id", "vision_token_id")}
    vision = {**earlier["vision_config"], "model_type": "qwen2_5_vl", "in_channels": 3, "torch_dtype": "float32"}
    own = {**(earlier if top else kept), "text_config": text, "vision_config": vision, "transformers_version": "4.53.1"}
    (folder / "config.json").write_text(json.dumps(own))


@pytest.mark.parametrize("top", [True, False], ids=["keys twice", "keys once"])
@pytest.mark.parametrize("tied", [False, True])
def test_folders_of_version_4_are_read(tied: bool, top: bool, tmp_path: Path) -> None:
    """What users have trained since 2025, with ids of tokens in the text's section; where the tables are one, that alone says so."""
    theirs, ours = reference(tied=tied), composition(tied=tied)
    redraw(theirs)
    theirs.save_pretrained(tmp_path)
    config_of_version_4(tmp_path, top=top)
    if tied:
        tree = json.loads((tmp_path / "config.json").read_text())
        tree["text_config"]["tie_word_embeddings"] = tree.pop("tie_word_embeddings")
        (tmp_path / "config.json").write_text(json.dumps(tree))
    with our_model(ours) as built:
        import_model(tmp_path, built.target, ours, Registry.discover())
        assert torch.equal(built.target["image_projector"].merger.linear_fc2.bias, theirs.model.visual.merger.mlp[2].bias)


def test_a_folder_without_axes_is_not_read_as_one_of_the_whole(tmp_path: Path) -> None:
    """The class assumes [16, 24, 24]; that a language model alone may say nothing of axes does not hold here."""
    reference().save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    del tree["text_config"]["rope_parameters"]["mrope_section"]
    (tmp_path / "config.json").write_text(json.dumps(tree))
    ours = composition()
    said = r"text_config.rope_parameters.mrope_section is \[16, 24, 24\] in the file, but our foundation.mrope_section says \[2, 1, 1\]"
    with our_model(ours) as built, pytest.raises(WeightsError, match=said):
        import_model(tmp_path, built.target, ours, Registry.discover())


NAMES_IN_MEMORY = {"model.": "model.language_model.", "visual.": "model.visual."}


@pytest.mark.parametrize("renamed", [{}, NAMES_IN_MEMORY], ids=["published names", "names in memory"])
def test_published_folders_are_read(renamed: dict[str, str], tmp_path: Path) -> None:
    theirs, ours = reference(), composition()
    redraw(theirs)
    theirs.save_pretrained(tmp_path)
    published_config(tmp_path)
    respell(tmp_path, renamed)
    with our_model(ours) as built:
        import_model(tmp_path, built.target, ours, Registry.discover())
        assert torch.equal(built.model.foundation.output_layer.weight, theirs.lm_head.weight)
        merged = built.target["image_projector"].merger.linear_fc2.bias
        assert torch.equal(merged, theirs.model.visual.merger.mlp[2].bias)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rms_norm_eps": 1e-5}, "text_config.rms_norm_eps is 1e-05 in the file, but our foundation.layernorm_epsilon says 1e-06"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True in the file"),
        ({"hidden_sise": 32}, "hidden_sise is 32 in the file, but no table knows this key"),
    ],
)
def test_a_published_folder_that_disagrees_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    reference().save_pretrained(tmp_path)
    published_config(tmp_path, **changes)
    ours = composition()
    with our_model(ours) as built, pytest.raises(WeightsError, match=said):
        import_model(tmp_path, built.target, ours, Registry.discover())
