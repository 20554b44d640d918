"""LLaVA-OneVision 1.5 as a whole: tokens, logits, gradients and folders are those of its published definition (`llava_ov.py`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import VOCAB_SIZE, check_pixels, check_whole_parity, compose, respell
from llava_ov import LlavaOv15, published_config
from qwen_vl import PIXELS, TEMPLATE, TOKEN_IDS, published, talks_in, tokenizer_in
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from loongforge_core.config.check import load_composition
from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import our_model, redraw
from loongforge_core.testing.roundtrip import check_same_folder
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.formats import whole_table
from loongforge_core.weights.holding import holdings
from loongforge_core.weights.import_hf import check_config
from loongforge_core.weights.load import import_model

MODEL: dict[str, Any] = {
    "model_type": "llava_ov_1_5",
    "image_encoder": {
        "type": "rice_vit",
        "also_encodes": ["video"],
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 40,
        "num_attention_heads": 4,
        "patch_size": 4,
        "min_pixels": PIXELS["min_pixels"],
        "max_pixels": PIXELS["max_pixels"],
    },
    "image_projector": {"type": "patch_merger", "normalization": "LayerNorm", "layernorm_epsilon": 1e-5},
    "foundation": {
        "type": "qwen3",
        "num_layers": 2,
        "hidden_size": 24,
        "ffn_hidden_size": 48,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "kv_channels": 8,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 512,
        "rotary_base": 5e6,
    },
}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 40, "num_heads": 4, "patch_size": 4}
TEXT = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"head_dim": 8, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 512, "rope_theta": 5e6}


def composition(tokenizer: Path | None = None, *, tied: bool = False) -> Composition:
    foundation = {**MODEL["foundation"], "untie_embeddings_and_output_weights": not tied}
    return compose({**MODEL, "foundation": foundation}, tokenizer)


def reference(*, tied: bool = False) -> LlavaOv15:
    return LlavaOv15(published_config(VISION, {**TEXT, "tie_word_embeddings": True} if tied else TEXT, TOKEN_IDS))


def test_parity_through_the_published_processor(tmp_path: Path) -> None:
    """Of images and videos, several to a sample, padded and packed."""
    ours = composition(tokenizer_in(tmp_path))
    given = published(transformers.Qwen2_5_VLProcessor, Path(str(ours.run.tokenizer)), talks_in(tmp_path), tmp_path, ours)
    given.check_tokens()
    check_pixels(given, "image", "pixel_values")
    check_whole_parity(ours, reference(), given, tmp_path)


NO_MEANING = ("torch_dtype", "transformers_version", "text_config.use_cache", "text_config.max_window_layers")
NO_MEANING += ("text_config.initializer_range", "vision_config.initializer_range")
MORE_IN_AN_EXPORT = {"dtype", "tie_word_embeddings", "text_config.tie_word_embeddings", "vision_start_token_id", "vision_end_token_id"}


def said(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a config.json says, by dotted path; a null says nothing."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from said(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tied: bool, tmp_path: Path) -> None:
    """The same tensors and the same config.json; from our export too."""
    ours, theirs, registry = composition(tokenizer_in(tmp_path), tied=tied), reference(tied=tied), Registry.discover()
    redraw(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    with our_model(ours) as built:
        for source, target in (("theirs", "export"), ("export", "again")):
            redraw(built.model, seed=1)
            import_model(tmp_path / source, built.target, ours, registry)
            export_hf(built.target, ours, registry, tmp_path / target, tokenizer=ours.run.tokenizer)
            check_same_folder(tmp_path / source, tmp_path / target, built.table)
    export = json.loads((tmp_path / "export" / "config.json").read_text())
    before = {name: value for name, value in said(theirs.config) if name not in NO_MEANING}
    after = dict(said(export))
    assert {name: after.get(name) for name in before} == before
    assert after.keys() - before.keys() <= MORE_IN_AN_EXPORT
    assert export["text_config"]["tie_word_embeddings"] is export["tie_word_embeddings"] is tied
    assert {name: export[name] for name in TOKEN_IDS} == TOKEN_IDS


def test_processor_files_are_those_of_the_published_processor(tmp_path: Path) -> None:
    """Qwen2.5-VL's, with one frame in a patch; a video's frames have the limits of images."""
    ours = composition(tokenizer_in(tmp_path))
    with our_model(ours) as built:
        export_hf(built.target, ours, Registry.discover(), tmp_path / "export", tokenizer=ours.run.tokenizer)
    encoder, loaded = ours.encoder("image"), transformers.AutoImageProcessor.from_pretrained(tmp_path / "export")
    assert isinstance(loaded, Qwen2VLImageProcessorPil)
    assert (loaded.patch_size, loaded.merge_size, loaded.temporal_patch_size) == (encoder.patch_size, 2, 1)
    assert (loaded.size["shortest_edge"], loaded.size["longest_edge"]) == (PIXELS["min_pixels"], PIXELS["max_pixels"])
    assert (list(loaded.image_mean), list(loaded.image_std)) == (encoder.image_mean, encoder.image_std)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "export").chat_template == TEMPLATE
    assert json.loads((tmp_path / "export" / "processor_config.json").read_text()) == {"processor_class": "Qwen2_5_VLProcessor"}
    image, video = (json.loads((tmp_path / "export" / f"{name}preprocessor_config.json").read_text()) for name in ("", "video_"))
    assert (image.pop("image_processor_type"), video.pop("video_processor_type")) == ("Qwen2VLImageProcessor", "Qwen2VLVideoProcessor")
    assert image == video


def saved(folder: Path, *, text: Mapping[str, Any] | None = None, vision: Mapping[str, Any] | None = None, **top: Any) -> LlavaOv15:
    """The reference's folder, whose config.json says something else there."""
    theirs = reference()
    redraw(theirs)
    theirs.config = {
        **theirs.config,
        **top,
        "text_config": {**theirs.config["text_config"], **(text or {})},
        "vision_config": {**theirs.config["vision_config"], **(vision or {})},
    }
    theirs.save_pretrained(folder)
    return theirs


NAMES_IN_MEMORY = {"model.": "model.language_model.", "visual.": "model.visual."}
REMOTE_CODE: dict[str, Any] = {"auto_map": {"AutoConfig": "configuration_llavaonevision1_5.Llavaonevision1_5Config"}, "use_cache": True}
OF_QWEN3: dict[str, Any] = {"architectures": ["Qwen3ForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"}
VERSION_5: dict[str, Any] = {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e6}}


@pytest.mark.parametrize(
    ("renamed", "changes"),
    [
        ({}, {**REMOTE_CODE, "text": OF_QWEN3}),
        (NAMES_IN_MEMORY, {"text": VERSION_5}),
        ({}, {"tie_word_embeddings": True}),
    ],
    ids=["published", "saved by a port", "tied at the top, where the class does not look"],
)
def test_published_folders_are_read(renamed: dict[str, str], changes: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours = saved(tmp_path, **changes), composition()
    respell(tmp_path, renamed)
    with our_model(ours) as built:
        import_model(tmp_path, built.target, ours, Registry.discover())
        assert torch.equal(built.model.foundation.output_layer.weight, theirs.lm_head.weight)
        assert torch.equal(built.target["image_projector"].merger.linear_fc2.bias, theirs.visual.merger.mlp[2].bias)
        assert torch.equal(built.target["image_encoder"].class_position, theirs.visual.class_pos_emb)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": {"rope_theta": 1e6}}, "text_config.rope_theta is 1000000.0 in the file, but our foundation.rotary_base says 5000000.0"),
        ({"text": {"rope_theta": None}}, "text_config.rope_theta is absent in the file"),
        ({"text": {"hidden_size": None}}, "text_config.hidden_size is None in the file"),
        ({"text": {"tie_word_embeddings": True}}, "text_config.tie_word_embeddings is True in the file"),
        ({"text": {"sliding_window": 4096}}, "text_config.sliding_window is 4096 in the file; only None is supported"),
        ({"text": {"rope_scaling": {"rope_type": "yarn"}}}, "text_config.rope_scaling.rope_type is 'yarn' in the file, but no table knows"),
        ({"vision": {"text_hidden_size": 32}}, "vision_config.text_hidden_size is 32 in the file"),
        ({"vision": {"temporal_patch_size": 2}}, "vision_config.temporal_patch_size is 2 in the file"),
        ({"hidden_sise": 32}, "hidden_sise is 32 in the file, but no table knows this key"),
    ],
)
def test_a_published_folder_that_disagrees_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved(tmp_path, **changes)
    ours = composition()
    with our_model(ours) as built, pytest.raises(WeightsError, match=message):
        import_model(tmp_path, built.target, ours, Registry.discover())


@pytest.mark.parametrize(
    ("slot", "changes"),
    [
        ("image_projector", {"normalization": "RMSNorm"}),
        ("image_projector", {"layernorm_epsilon": 1e-6}),
        ("image_projector", {"activation": "gelu_tanh"}),
        ("image_projector", {"spatial_merge_size": 1}),
        ("image_encoder", {"layernorm_epsilon": 1e-6}),
        ("foundation", {"rotary_scaling": {"type": "linear", "factor": 2.0}}),
        ("foundation", {"type": "llama", "add_qkv_bias": False}),
    ],
)
def test_what_the_class_cannot_be_is_exported_part_by_part(slot: str, changes: dict[str, Any]) -> None:
    registry = Registry.discover()
    assert whole_table(composition(), registry) is not None
    assert whole_table(compose({**MODEL, slot: {**MODEL[slot], **changes}}), registry) is None


LARGE_VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 14}
LARGE_TEXT = {"num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32, "num_key_value_heads": 8}
LARGE_TEXT |= {"head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 262144, "rope_theta": 5e6}
"""The 4B model's."""


def test_published_size() -> None:
    """Names on disk, shapes and config.json of the definition at the 4B model's sizes, whose card says 0.3 + 4.4 = 4.7 billion."""
    config = published_config(LARGE_VISION, LARGE_TEXT, {"image_token_id": 151655, "video_token_id": 151656})
    with torch.device("meta"):
        theirs = LlavaOv15(config)
    expected = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    registry = Registry.discover()
    ours = load_composition("llava_onevision/llava_onevision_1_5_4b", registry=registry)
    with our_model(ours, registry=registry, device=torch.device("meta")) as built:
        held = holdings({f"{slot}.": part for slot, part in built.target.items()})
        assert built.table.shapes_on_disk({name: holding.shape for name, holding in held.items()}) == expected
        counts = [sum(parameter.numel() for parameter in part.parameters()) for part in built.target.values()]
        assert not check_config(built.table, config, built.config)
    assert sum(counts) == sum(tensor.numel() for tensor in theirs.parameters()) == 4_741_610_528
    by_slot = dict(zip(built.target, counts, strict=True))
    language = by_slot["foundation"]
    assert [round(count / 1e9, 1) for count in (sum(counts) - language, language, sum(counts))] == [0.3, 4.4, 4.7]
