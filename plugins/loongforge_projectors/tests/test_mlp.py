"""LLaVA's projector: parity with the one in transformers, round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loongforge_projectors.mlp.config import MlpConfig
from transformers import LlamaConfig, LlavaConfig, Qwen2Config, SiglipVisionConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from loongforge_core.layers.interfaces import Features
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.parity import check_projector
from loongforge_core.testing.reference import ours
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import published_config
from loongforge_core.weights.holding import holdings

CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"activation": "gelu_tanh"}, {"projector_hidden_act": "gelu_pytorch_tanh"}),
    ({"add_bias_linear": False}, {"multimodal_projector_bias": False}),
]


def both(case: tuple[dict[str, Any], dict[str, Any]]) -> tuple[MlpConfig, LlavaMultiModalProjector]:
    ours, theirs = case
    parts = {"vision_config": SiglipVisionConfig(hidden_size=24), "text_config": Qwen2Config(hidden_size=32)}
    return MlpConfig(input_size=24, hidden_size=32, **ours), LlavaMultiModalProjector(LlavaConfig(**parts, **theirs))


@pytest.mark.parametrize("case", CASES)
def test_parity(case: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden, level = (torch.randn(10, 24, generator=generator) for _ in range(2))
    check_projector(*both(case), tmp_path, Features(hidden, grids=((2, 3), (4,)), levels=(level,)))


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    check_round_trip(*both(case), tmp_path)


def test_published_size() -> None:
    """LLaVA 1.5 7B: features of 1024, embeddings of 4096; the widths are not in the YAML, since they follow from the neighbours."""
    config = published_config("image_projector/llava_mlp_adapter", Registry.discover(), {"input_size": 1024, "hidden_size": 4096})
    parts = {"vision_config": SiglipVisionConfig(hidden_size=1024), "text_config": LlamaConfig(hidden_size=4096)}
    with torch.device("meta"):
        reference = LlavaMultiModalProjector(LlavaConfig(**parts))
    with ours(config, device=torch.device("meta")) as built:
        shapes = built.table.shapes_on_disk({name: holding.shape for name, holding in holdings({"": built.model}).items()})
    assert shapes == {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
