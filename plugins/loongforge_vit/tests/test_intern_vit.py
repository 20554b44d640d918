"""InternViT: parity with transformers, both formats on disk, token counts, every layout."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from loongforge_vit.intern_vit.config import InternVitConfig
from loongforge_vit.intern_vit.weights import table
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError
from loongforge_core.layers.interfaces import Items
from loongforge_core.parallel.initialise import initialise
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.batches import batches_with_items
from loongforge_core.testing.layouts import Layout, check_layouts
from loongforge_core.testing.parity import check_encoder, check_outputs
from loongforge_core.testing.reference import different_tensors, our_model, ours, read_tensors, redraw
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size
from loongforge_core.weights.export_hf import export_component
from loongforge_core.weights.import_hf import import_hf
from loongforge_core.weights.load import import_model

# 14 pixels in patches of 4: the last two rows and columns of pixels are not seen.
OURS = {"num_layers": 3, "hidden_size": 48, "ffn_hidden_size": 64, "num_attention_heads": 6, "image_size": 14, "patch_size": 4}
THEIRS = {
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 6,
    "image_size": [14, 14],
    "patch_size": [4, 4],
}
OUR_6B = {"normalization": "RMSNorm", "add_qkv_bias": False, "qk_layernorm": True}
THEIR_6B = {"norm_type": "rms_norm", "attention_bias": False, "use_qk_norm": True}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as the 300M": ({}, {"attention_bias": True}),
    "as the 6B": (OUR_6B, THEIR_6B),
    "all heads' norm, bias and layer norm": ({"qk_layernorm": True}, {"attention_bias": True, "use_qk_norm": True}),
    "last layer but one": ({**OUR_6B, "feature_layer": -2}, THEIR_6B),
    "embeddings": ({"feature_layer": 0}, {"attention_bias": True}),
}

TILES = (1, 5, 2)


def both(case: str) -> tuple[InternVitConfig, transformers.PreTrainedModel]:
    ours, theirs = CASES[case]
    return InternVitConfig(**OURS, **ours), transformers.InternVLVisionModel(transformers.InternVLVisionConfig(**THEIRS, **theirs))


def images() -> Items:
    """Of unequal numbers of tiles."""
    pixels = torch.randn(sum(TILES), 3, 14, 14, generator=torch.Generator().manual_seed(3))
    return Items({"pixel_values": pixels}, tuple((tiles,) for tiles in TILES))


@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, tmp_path: Path) -> None:
    config, reference = both(case)

    def features(reference: Any) -> Tensor:
        output = reference(images().inputs["pixel_values"], output_hidden_states=True)
        hidden = output.last_hidden_state if config.feature_layer == -1 else output.hidden_states[config.feature_layer]
        return hidden[:, 1:].flatten(0, 1)

    check_encoder(config, reference, tmp_path, images(), features)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, tmp_path: Path) -> None:
    check_round_trip(*both(case), tmp_path)


# ------------------------------------------------------------------------------------------------------- OpenGVLab's format

OPENGVLAB_NAMES = {
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "encoder.layer.": "encoder.layers.",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.projection_layer": "attn.proj",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "lambda_": "ls",
}


def in_opengvlab_format(reference: transformers.PreTrainedModel, case: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config.json as OpenGVLab published them, by their definition: the projections are one, queries first."""
    tensors = {}
    for name, tensor in reference.state_dict().items():
        for theirs, opengvlab in OPENGVLAB_NAMES.items():
            name = name.replace(theirs, opengvlab)
        tensors[name] = tensor
    for layer in range(3):
        for part in ("weight", "bias") if CASES[case][1]["attention_bias"] else ("weight",):
            names = [f"encoder.layers.{layer}.attention.{letter}_proj.{part}" for letter in "qkv"]
            tensors[f"encoder.layers.{layer}.attn.qkv.{part}"] = torch.cat([tensors.pop(name) for name in names])
    config = {
        "model_type": "intern_vit_6b",
        "architectures": ["InternVisionModel"],
        "auto_map": {"AutoModel": "modeling_intern_vit.InternVisionModel"},
        **{"attention_dropout": 0.0, "drop_path_rate": 0.1, "dropout": 0.0, "hidden_act": "gelu", "hidden_size": 48, "image_size": 14},
        **{"initializer_factor": 0.1, "initializer_range": 1e-10, "intermediate_size": 64, "layer_norm_eps": 1e-6, "patch_size": 4},
        "norm_type": CASES[case][1].get("norm_type", "layer_norm"),
        **{"num_attention_heads": 6, "num_channels": 3, "num_hidden_layers": 3, "use_bfloat16": True, "use_flash_attn": True},
        "qk_normalization": CASES[case][1].get("use_qk_norm", False),
        "qkv_bias": CASES[case][1]["attention_bias"],
    }
    return tensors, config


def write_folder(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("case", CASES)
def test_opengvlabs_format_is_read_and_written(case: str, tmp_path: Path) -> None:
    """Told by its config.json; the features are those of transformers' model with the same weights, and every tensor comes back."""
    config, reference = both(case)
    redraw(reference)
    write_folder(tmp_path / "published", *in_opengvlab_format(reference, case))
    opengvlab = table(config).alternatives["OpenGVLab"]
    (tmp_path / "export").mkdir()
    with ours(config) as built, torch.no_grad():
        import_hf(tmp_path / "published", built.target, built.table, config)
        output = reference(images().inputs["pixel_values"], output_hidden_states=True)
        check_outputs(built.model(images()).hidden_NW, output.hidden_states[config.feature_layer][:, 1:].flatten(0, 1))
        export_component(tmp_path / "export", built.target, opengvlab, config)
        redraw(built.model, seed=1)
        import_hf(tmp_path / "export", built.target, built.table, config)
    assert not different_tensors(read_tensors(tmp_path / "published"), read_tensors(tmp_path / "export"))
    written = json.loads((tmp_path / "export" / "config.json").read_text())
    published = json.loads((tmp_path / "published" / "config.json").read_text())
    assert {key: published[key] for key in written if key != "dtype"} == {key: written[key] for key in written if key != "dtype"}


def test_an_encoder_alone_reads_both_formats(tmp_path: Path) -> None:
    """As a composition, whose names are behind the slot's."""
    _, reference = both("as the 6B")
    redraw(reference)
    reference.save_pretrained(tmp_path / "transformers")
    write_folder(tmp_path / "OpenGVLab", *in_opengvlab_format(reference, "as the 6B"))
    alone = composition_from({"model": {"image_encoder": {"type": "intern_vit", **OURS, **OUR_6B}}}, Registry.discover())
    with our_model(alone) as built:
        values = {}
        for name in ("transformers", "OpenGVLab"):
            redraw(built.model)
            import_model(tmp_path / name, built.target, alone, Registry.discover())
            values[name] = {key: tensor.clone() for key, tensor in built.model.state_dict().items() if isinstance(tensor, Tensor)}
    assert not different_tensors(values["transformers"], values["OpenGVLab"])
    assert torch.equal(values["OpenGVLab"]["encoder.slots.image_encoder.class_embedding"], reference.embeddings.cls_token)


def test_another_model_in_the_folder_is_refused(tmp_path: Path) -> None:
    config, reference = both("as the 6B")
    tensors, given = in_opengvlab_format(reference, "as the 6B")
    write_folder(tmp_path / "published", tensors, {**given, "model_type": "clip"})
    with ours(config) as built, pytest.raises(WeightsError, match="'clip', expected 'internvl_vision' or 'intern_vit_6b'"):
        import_hf(tmp_path / "published", built.target, built.table, config)


def test_a_tile_that_is_no_square_is_refused(tmp_path: Path) -> None:
    config, reference = both("as the 6B")
    reference.config.image_size = [14, 18]
    reference.save_pretrained(tmp_path)
    with ours(config) as built, pytest.raises(WeightsError, match=r"image_size is \[14, 18\] in the file, but our image_size says 14"):
        import_hf(tmp_path, built.target, built.table, config)


# -------------------------------------------------------------------------------------------------------------------- sizes

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("intern_vit")])
def test_published_size(name: str) -> None:
    figures = transformers.InternVLVisionConfig(**PUBLISHED[name]["kwargs"])
    check_published_size(f"image_encoder/{name}", transformers.InternVLVisionModel, figures, parameters=PUBLISHED[name]["parameters"])


def test_tokens_are_counted_without_torch() -> None:
    """For 1,000 images of random sizes: what the config says of an image's pixels is what the encoder emits for as many tiles."""
    config = InternVitConfig(num_layers=1, hidden_size=2, ffn_hidden_size=2, num_attention_heads=1, image_size=4, patch_size=2)
    heights, widths = np.random.default_rng(0).integers(1, 40, (2, 1000)).tolist()
    sizes = tuple((config.num_tiles(height, width),) for height, width in zip(heights, widths, strict=True))
    assert len(set(sizes)) > 6
    with ours(config) as built, torch.no_grad():
        redraw(built.model)
        features = built.model(Items({"pixel_values": torch.zeros(sum(tiles for (tiles,) in sizes), 3, 4, 4)}, sizes))
    assert [math.prod(grid) for grid in features.grids] == [config.num_tokens(size) for size in sizes]
    assert features.hidden_NW.shape == (sum(map(config.num_tokens, sizes)), config.feature_size)


@pytest.mark.parametrize("size", [(), (0,), (2, 14, 14)])
def test_a_size_that_is_no_number_of_tiles(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a size of \(tiles,\), at least one; given was"):
        InternVitConfig().token_grid(size)


def test_an_epsilon_that_is_read_differently_is_refused() -> None:
    with pytest.raises(ValidationError, match="layernorm_epsilon is 1e-05, but qk_layernorm needs 1e-6"):
        InternVitConfig(qk_layernorm=True, layernorm_epsilon=1e-5)
    assert InternVitConfig(layernorm_epsilon=1e-5).layernorm_epsilon == 1e-5


def test_25_heads_are_split_over_five_ranks_or_none() -> None:
    published = InternVitConfig(hidden_size=3200, ffn_hidden_size=12800, num_attention_heads=25, qk_layernorm=True)
    (reason,) = published.tensor_parallel_conflicts(2)
    assert reason == "num_attention_heads 25 does not divide by 2: 25 = 12 x 2 + 1"
    assert [size for size in range(1, 26) if not published.tensor_parallel_conflicts(size)] == [1, 5, 25]


def test_branches_begin_at_the_config_s_scale() -> None:
    config = InternVitConfig(**OURS, **OUR_6B, layer_scale_init=0.25)
    with ours(config) as built:
        initialise({"image_encoder": built.model}, seed=0)
        state = {name: tensor for name, tensor in built.model.state_dict().items() if isinstance(tensor, Tensor)}
    assert {name for name, tensor in state.items() if (tensor == 0.25).all()} == {
        f"transformer.layers.{layer}.{branch}_bda.weight" for layer in range(3) for branch in ("self_attn", "mlp")
    }
    assert {name.rpartition(".")[0][-11:] for name, tensor in state.items() if (tensor == 1).all()} >= {"q_layernorm", "k_layernorm"}


# ------------------------------------------------------------------------------------------------------------------ layouts

TINY = {"type": "intern_vit", "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 32, "num_attention_heads": 4, "image_size": 8}
TINY |= {"patch_size": 4, "layer_scale_init": 0.5, "init_method_std": 0.1}
FOUNDATION = {"type": "qwen2", "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 32, "num_attention_heads": 4, "num_query_groups": 2}
FOUNDATION |= {"vocab_size": 101, "init_method_std": 0.1}
# The gradient of a key's bias is nothing but rounding, about 1e-9: with the usual 1e-8 Adam would make steps of it.
TRAIN = {"lr": 1e-2, "steps": 2, "lr_warmup_steps": 1, "adam_eps": 1e-5}

LAYOUTS = [
    Layout(tensor=2, encoders={"image_encoder": 2}),
    Layout(tensor=2),
    Layout(pipeline=2, encoder_stage=True),
    Layout(data=2),
    Layout(tensor=4, encoders={"image_encoder": 2}, sequence_parallel=True, recompute="full"),
]


def composition(**changes: Any) -> Composition:
    slots = {"image_encoder": {**TINY, **changes}, "image_projector": {"type": "intern_mlp", "init_method_std": 0.1}}
    return composition_from({"model": {**slots, "foundation": FOUNDATION}, "train": TRAIN}, Registry.discover())


def draw_images(number: int, random: torch.Generator) -> Items:
    tiles = torch.randint(1, 4, (number,), generator=random).tolist()
    return Items({"pixel_values": torch.randn(sum(tiles), 3, 8, 8, generator=random)}, tuple((each,) for each in tiles))


@pytest.mark.parametrize("changes", [{}, OUR_6B], ids=["as the 300M", "as the 6B"])
def test_every_layout_equals_one_process(changes: dict[str, Any]) -> None:
    tiny = composition(**changes)
    check_layouts(tiny, LAYOUTS, batches_with_items(tiny, "image", draw_images))
