"""Qwen3-VL's tower: parity with transformers in features, levels and what the merger makes of them, round trip, sizes, layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loongforge_projectors.patch_merger.config import PatchMergerConfig
from loongforge_vit.qwen3_vl.config import Qwen3VlConfig
from native_resolution import (
    batches,
    check_cost,
    check_counts,
    check_independence,
    check_nothing_is_asked,
    check_published_pair,
    check_recomputation,
    check_rotation_in_float32,
    composition,
    encode,
    grid_thw,
    items,
    pair,
    project,
    row_by_row,
)
from torch import Tensor
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeVisionConfig, Qwen3VLMoeVisionModel

from loongforge_core.layers.interfaces import Items
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.layouts import Layout, check_layouts
from loongforge_core.testing.parity import check_parity
from loongforge_core.testing.reference import ours
from loongforge_core.testing.roundtrip import check_through
from loongforge_core.testing.sizes import published_config
from loongforge_core.weights.import_hf import import_hf

OURS: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "patch_size": 4,
    "num_position_embeddings": 25,
    "deepstack_visual_indexes": [0, 2],
}
MERGER: dict[str, Any] = {"normalization": "LayerNorm", "num_levels": 2}
THEIRS: dict[str, Any] = {
    "depth": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": 4,
    "num_position_embeddings": 25,
    "deepstack_visual_indexes": [0, 2],
    "out_hidden_size": 24,
}
ARCHITECTURE = "Qwen3VLVisionModel"


def configs() -> tuple[Qwen3VlConfig, PatchMergerConfig]:
    return Qwen3VlConfig(**OURS), PatchMergerConfig(input_size=32, hidden_size=24, **MERGER)


def reference() -> transformers.PreTrainedModel:
    return transformers.Qwen3VLVisionModel(transformers.Qwen3VLVisionConfig(**THEIRS))


def their_features(reference: Any, items: Items) -> Tensor:
    """The tower's, then those of its levels, whose layers keep their outputs to themselves."""
    outputs: dict[int, Tensor] = {}
    for index in (0, 2):
        reference.blocks[index].register_forward_hook(lambda _, __, output, index=index: outputs.update({index: output}))
    last = reference(items.inputs["pixel_values"], grid_thw=grid_thw(items)).last_hidden_state
    return torch.cat([row_by_row(hidden, items.sizes) for hidden in (last, outputs[0], outputs[2])])


def our_features(model: Any, items: Items) -> Tensor:
    features = encode(model, items)
    return torch.cat([features.hidden_NW, *features.levels])


def their_embeddings(reference: Any, items: Items) -> Tensor:
    output = reference(items.inputs["pixel_values"], grid_thw=grid_thw(items))
    return torch.cat([output.pooler_output, *output.deepstack_features])


OUTPUTS = {"features and levels": (our_features, their_features), "embeddings": (project, their_embeddings)}


@pytest.mark.parametrize("what", OUTPUTS)
def test_parity(what: str, tmp_path: Path) -> None:
    run_ours, run_reference = OUTPUTS[what]
    given = items(configs()[0])
    with pair(*configs(), ARCHITECTURE) as built:
        check_parity(
            built,
            reference(),
            tmp_path,
            run_ours=lambda model: run_ours(model, given),
            run_reference=lambda reference: run_reference(reference, given),
        )


def test_round_trip(tmp_path: Path) -> None:
    with pair(*configs(), ARCHITECTURE) as built:
        check_through(built, reference(), tmp_path)


def test_reads_its_part_of_a_published_model(tmp_path: Path) -> None:
    """Mergers and language model are no extra tensors, and their keys no unknown ones."""
    text = {"num_hidden_layers": 1, "hidden_size": 24, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    text |= {"vocab_size": 60, "head_dim": 12}
    whole = transformers.Qwen3VLForConditionalGeneration(transformers.Qwen3VLConfig(text_config=text, vision_config=THEIRS))
    whole.save_pretrained(tmp_path)
    with ours(configs()[0]) as built:
        import_hf(tmp_path, built.target, built.table, built.config)
        assert torch.equal(built.model.position_embedding.weight, whole.model.visual.pos_embed.weight)
        assert torch.equal(built.model.transformer.layers[3].mlp.linear_fc2.weight, whole.model.visual.blocks[3].mlp.linear_fc2.weight)


def test_reads_the_tower_of_a_model_with_experts(tmp_path: Path) -> None:
    tower = Qwen3VLMoeVisionModel(Qwen3VLMoeVisionConfig(**THEIRS))
    tower.save_pretrained(tmp_path)
    with ours(configs()[0]) as built:
        import_hf(tmp_path, built.target, built.table, built.config)
        assert torch.equal(built.model.position_embedding.weight, tower.pos_embed.weight)


def test_token_counts() -> None:
    check_counts(configs()[0])


def test_cost_grows_with_the_frame() -> None:
    check_cost(configs()[0])


def test_no_device_is_asked_how_long_something_is() -> None:
    check_nothing_is_asked(configs()[0])


def test_queries_and_keys_are_turned_in_float32() -> None:
    check_rotation_in_float32(configs()[0])


def test_items_are_independent() -> None:
    check_independence(configs()[0])


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputation_changes_no_gradient(recompute: str) -> None:
    check_recomputation(configs()[0], recompute)


FIGURES = json.loads((Path(__file__).parent / "published_native_resolution.json").read_text())["qwen3_vl"]


@pytest.mark.parametrize("name", FIGURES["sizes"])
def test_published_size(name: str) -> None:
    published = FIGURES["sizes"][name]
    check_published_pair(
        name,
        "qwen3_vl_adapter",
        transformers.Qwen3VLVisionModel,
        transformers.Qwen3VLVisionConfig(**published["kwargs"]),
        parameters=published["parameters"],
        out_hidden_size=published["kwargs"]["out_hidden_size"],
    )


def test_the_original_designs_name() -> None:
    original, published = (published_config(f"image_encoder/{name}", Registry.discover(), {}) for name in ("qwen3_vit", "qwen3_vl_vit_8b"))
    assert original == published


LAYOUTS = (
    Layout(tensor=2, encoders={"image_encoder": 2}),
    Layout(tensor=2, encoders={"image_encoder": 2}, recompute="full"),
    Layout(tensor=2, sequence_parallel=True, recompute="full"),
    Layout(pipeline=2, encoder_stage=True),
    Layout(pipeline=2, recompute="selective"),
    Layout(data=2, optimizer="overlapped"),
)


def test_every_layout_equals_one_process() -> None:
    small = {"type": "qwen3_vl", **OURS, "hidden_size": 16, "ffn_hidden_size": 24, "num_attention_heads": 2, "init_method_std": 0.1}
    model = composition(small, {"type": "patch_merger", **MERGER, "init_method_std": 0.1})
    check_layouts(model, LAYOUTS, batches(model))
