"""Qwen2.5-VL's tower: parity with transformers in features and what the merger makes of them, round trip, sizes, layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loongforge_projectors.patch_merger.config import PatchMergerConfig
from loongforge_vit.qwen2_5_vl.config import Qwen25VlConfig
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
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.vision_utils import get_vision_window_index

from loongforge_core.component import Shape
from loongforge_core.layers.interfaces import Items
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.layouts import Layout, check_layouts
from loongforge_core.testing.parity import check_parity
from loongforge_core.testing.reference import ours
from loongforge_core.testing.roundtrip import check_through
from loongforge_core.testing.sizes import published_config
from loongforge_core.weights.import_hf import import_hf

# Windows of 4 x 4 patches: two blocks of 2 x 2 each way.
OURS: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
MERGER: dict[str, Any] = {"normalization": "RMSNorm"}
THEIRS: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
    "out_hidden_size": 24,
}
ARCHITECTURE = "Qwen2_5_VisionTransformerPretrainedModel"


def configs() -> tuple[Qwen25VlConfig, PatchMergerConfig]:
    return Qwen25VlConfig(**OURS), PatchMergerConfig(input_size=32, hidden_size=24, **MERGER)


def reference() -> Qwen2_5_VisionTransformerPretrainedModel:
    return Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(**THEIRS))


def their_features(reference: Any, items: Items) -> Tensor:
    """The reference leaves them window by window."""
    hidden_Nh = reference(items.inputs["pixel_values"], grid_thw=grid_thw(items)).last_hidden_state
    window_of_block, _ = get_vision_window_index(grid_thw(items), spatial_merge_size=2, window_size=16, patch_size=4)
    blocks = hidden_Nh.view(-1, 4, hidden_Nh.shape[-1])[window_of_block.argsort()]
    return row_by_row(blocks.flatten(0, 1), items.sizes)


def our_features(model: Any, items: Items) -> Tensor:
    return encode(model, items).hidden_NW


def their_embeddings(reference: Any, items: Items) -> Tensor:
    return reference(items.inputs["pixel_values"], grid_thw=grid_thw(items)).pooler_output


OUTPUTS = {"features": (our_features, their_features), "embeddings": (project, their_embeddings)}


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
    """The merger and the language model are no extra tensors, and their keys no unknown ones."""
    text = {"num_hidden_layers": 1, "hidden_size": 24, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    text |= {"vocab_size": 60, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    whole = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=THEIRS))
    whole.save_pretrained(tmp_path)
    with ours(configs()[0]) as built:
        import_hf(tmp_path, built.target, built.table, built.config)
        assert torch.equal(built.model.patch_embedding.weight, whole.model.visual.patch_embed.proj.weight)
        assert torch.equal(built.model.transformer.layers[2].mlp.linear_fc2.weight, whole.model.visual.blocks[2].mlp.down_proj.weight)


def test_the_published_towers_windows_are_eight_patches_wide() -> None:
    assert Qwen25VlConfig().window_side == 8


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


@pytest.mark.parametrize("size", [(4, 6), (1, 3, 4), (1, 4, 5), (0, 4, 4)])
def test_a_size_that_is_none_is_refused(size: Shape) -> None:
    with pytest.raises(ValueError, match="is not \\(frames, rows, columns\\) of patches with rows and columns that are multiples of 2"):
        configs()[0].token_grid(size)


FIGURES = json.loads((Path(__file__).parent / "published_native_resolution.json").read_text())["qwen2_5_vl"]


@pytest.mark.parametrize("name", FIGURES["sizes"])
def test_published_size(name: str) -> None:
    published = FIGURES["sizes"][name]
    check_published_pair(
        name,
        "qwen_mlp_adapter",
        Qwen2_5_VisionTransformerPretrainedModel,
        Qwen2_5_VLVisionConfig(**published["kwargs"]),
        parameters=published["parameters"],
        out_hidden_size=published["kwargs"]["out_hidden_size"],
    )


def test_the_original_designs_name() -> None:
    original, published = (
        published_config(f"image_encoder/{name}", Registry.discover(), {}) for name in ("qwen2_5_vit", "qwen2_5_vl_vit_7b")
    )
    assert original == published


LAYOUTS = (
    Layout(tensor=2, encoders={"image_encoder": 2}, recompute="full"),
    Layout(pipeline=2, encoder_stage=True, recompute="selective"),
    Layout(data=2),
)


def test_every_layout_equals_one_process() -> None:
    small = {"type": "qwen2_5_vl", **OURS, "hidden_size": 16, "ffn_hidden_size": 24, "num_attention_heads": 2, "init_method_std": 0.1}
    model = composition(small, {"type": "patch_merger", **MERGER, "init_method_std": 0.1})
    check_layouts(model, LAYOUTS, batches(model))
