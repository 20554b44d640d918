"""Every composition that this plugin publishes is exactly the model that its authors published, counted on meta tensors.

Figures: `published.json`, from the models' config.json and cards.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from loongforge_core.config.check import load_composition
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import our_model
from loongforge_core.testing.sizes import check_published_model
from loongforge_core.weights.holding import holdings

FIGURES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "published.json").read_text())
LAYERS_OF_EXPERTS = 3
"""All are alike, some have twelve thousand experts, and three are what Qwen3-VL adds features to."""


@pytest.mark.parametrize("name", FIGURES)
def test_published_size(name: str) -> None:
    figures = FIGURES[name]
    config = getattr(transformers, figures["config_class"])(**figures["kwargs"])
    counts = {key: figures[key] for key in ("parameters", "disk_tensors") if key in figures}
    layers = LAYERS_OF_EXPERTS if hasattr(config.get_text_config(), "num_experts") else None
    check_published_model(name, getattr(transformers, figures["model_class"]), config, layers=layers, **counts)


@pytest.mark.parametrize(
    ("name", "parameters"), [("internvl2.5/internvl2_5_8b", 8_075_365_376), ("internvl2.5/internvl2_5_26b", 25_514_186_112)]
)
def test_published_size_with_internlm2(name: str, parameters: int) -> None:
    """transformers has no InternLM2: the totals of OpenGVLab's folders, and the names in them that depend on the number of layers."""
    registry = Registry.discover()
    composition = load_composition(name, registry=registry)
    vision, text = composition.encoder("image"), composition.foundation
    with our_model(composition, registry=registry, device=torch.device("meta")) as built:
        assert sum(parameter.numel() for parameter in built.model.parameters()) == parameters
        held = holdings({f"{slot}.": part for slot, part in built.target.items()})
        shapes = built.table.shapes_on_disk({name: holding.shape for name, holding in held.items()})
    width, rows = text.hidden_size, (text.num_attention_heads + 2 * text.groups) * text.head_size
    assert shapes["language_model.model.tok_embeddings.weight"] == shapes["language_model.output.weight"] == (92553, width)
    assert shapes[f"language_model.model.layers.{text.num_layers - 1}.attention.wqkv.weight"] == (rows, width)
    assert shapes[f"vision_model.encoder.layers.{vision.num_layers - 1}.attn.qkv.weight"] == (3 * vision.hidden_size, vision.hidden_size)
    assert shapes["mlp1.1.weight"] == (width, 4 * vision.hidden_size)
    assert f"language_model.model.layers.{text.num_layers}.attention.wqkv.weight" not in shapes
