"""CLIP's vision tower: parity with transformers at every feature layer, round trip, what published folders hold beside it, every layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loongforge_vit.clip.config import ClipConfig
from torch import Tensor

from loongforge_core.config.check import composition_from
from loongforge_core.layers.interfaces import Items
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.batches import batches_with_items
from loongforge_core.testing.layouts import Layout, check_layouts
from loongforge_core.testing.parity import check_encoder
from loongforge_core.testing.reference import ours, redraw
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size
from loongforge_core.weights.import_hf import import_hf

# 14 pixels in patches of 4: the last two rows and columns of pixels are not seen.
OURS = {"num_layers": 3, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "image_size": 14, "patch_size": 4}
THEIRS = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "image_size": 14,
    "patch_size": 4,
}

CASES: dict[str, dict[str, Any]] = {
    "last but one": {},
    "last layer": {"feature_layer": -1},
    "first layer": {"feature_layer": 1},
    "embeddings": {"feature_layer": 0},
    "class token": {"class_token": "kept"},
    "gelu": {"activation": "gelu"},
}


def both(case: str) -> tuple[ClipConfig, transformers.PreTrainedModel]:
    config = ClipConfig(**OURS, **CASES[case])
    return config, transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**THEIRS, hidden_act=config.activation))


def images() -> Items:
    pixels = torch.randn(3, 3, 14, 14, generator=torch.Generator().manual_seed(3))
    return Items({"pixel_values": pixels}, ((14, 14),) * 3)


@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, tmp_path: Path) -> None:
    config, reference = both(case)

    def features(reference: Any) -> Tensor:
        output = reference(images().inputs["pixel_values"], output_hidden_states=True)
        hidden = output.hidden_states[config.feature_layer]
        return (hidden if config.class_token == "kept" else hidden[:, 1:]).flatten(0, 1)

    check_encoder(config, reference, tmp_path, images(), features)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, tmp_path: Path) -> None:
    check_round_trip(*both(case), tmp_path)


def test_reads_its_half_of_a_published_model(tmp_path: Path) -> None:
    """OpenAI's folders hold a CLIPModel; only its vision half is read, and its text half is no extra tensor."""
    text = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 60}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    whole = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=THEIRS))
    whole.save_pretrained(tmp_path)
    with ours(ClipConfig(**OURS)) as built:
        import_hf(tmp_path, built.target, built.table, built.config)
        assert torch.equal(built.target.position_embedding.weight, whole.vision_model.embeddings.position_embedding.weight)


PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("clip")])
def test_published_size(name: str) -> None:
    figures = transformers.CLIPVisionConfig(**PUBLISHED[name]["kwargs"])
    check_published_size(f"image_encoder/{name}", transformers.CLIPVisionModel, figures, parameters=PUBLISHED[name]["parameters"])


@pytest.mark.parametrize("class_token", ["dropped", "kept"])
def test_tokens_are_counted_without_torch(class_token: str) -> None:
    """Every image is brought to one size, of whatever side and patches: ten towers, of a hundred images each."""
    random, registry = torch.Generator().manual_seed(0), Registry.discover()
    for _ in range(10):
        patch, side = int(torch.randint(1, 5, (), generator=random)), int(torch.randint(5, 20, (), generator=random))
        tiny = {"num_layers": 1, "hidden_size": 2, "ffn_hidden_size": 2, "num_attention_heads": 1, "feature_layer": -1}
        config = ClipConfig(**tiny, image_size=side, patch_size=patch, class_token=class_token)
        size = config.fixed_item_size
        with ours(config, registry=registry) as built, torch.no_grad():
            redraw(built.model)
            emitted = built.model(Items({"pixel_values": torch.zeros(100, 3, side, side)}, (size,) * 100))
        assert emitted.hidden_NW.shape == (100 * config.num_tokens(size), config.feature_size)
        assert emitted.grids == (config.token_grid(size),) * 100


# ------------------------------------------------------------------------------------------------------------------ layouts

TINY = {"type": "clip", "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 32, "num_attention_heads": 4, "image_size": 8}
TINY |= {"patch_size": 4, "init_method_std": 0.1}
FOUNDATION = {"type": "qwen2", "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 32, "num_attention_heads": 4, "num_query_groups": 2}
FOUNDATION |= {"vocab_size": 101, "init_method_std": 0.1}
# The gradient of a key's bias is nothing but rounding, about 1e-9: with the usual 1e-8 Adam would make steps of it.
TRAIN = {"lr": 1e-2, "steps": 2, "lr_warmup_steps": 1, "adam_eps": 1e-5}

LAYOUTS = [
    Layout(tensor=2, encoders={"image_encoder": 2}),
    Layout(tensor=2),
    Layout(pipeline=2, encoder_stage=True),
    Layout(data=2),
]


def draw_images(number: int, random: torch.Generator) -> Items:
    return Items({"pixel_values": torch.randn(number, 3, 8, 8, generator=random)}, ((8, 8),) * number)


def test_every_layout_equals_one_process() -> None:
    slots = {"image_encoder": TINY, "image_projector": {"type": "mlp", "init_method_std": 0.1}}
    tiny = composition_from({"model": {**slots, "foundation": FOUNDATION}, "train": TRAIN}, Registry.discover())
    check_layouts(tiny, LAYOUTS, batches_with_items(tiny, "image", draw_images))
