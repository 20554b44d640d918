"""SigLIP: parity with transformers at every feature layer, round trip, what published folders hold beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loongforge_vit.siglip.config import SiglipConfig
from torch import Tensor

from loongforge_core.layers.interfaces import Items
from loongforge_core.testing.parity import check_encoder
from loongforge_core.testing.reference import ours
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
    "last layer": {"feature_layer": -1},
    "last but one": {"feature_layer": -2},
    "first layer": {"feature_layer": 1},
    "embeddings": {"feature_layer": 0},
    "final norm": {"final_norm": True},
    "no head": {"feature_layer": -2, "attention_pooling_head": False},
}


def both(case: str) -> tuple[SiglipConfig, transformers.PreTrainedModel]:
    config = SiglipConfig(**OURS, **CASES[case])
    theirs = transformers.SiglipVisionConfig(**THEIRS, vision_use_head=config.attention_pooling_head)
    return config, transformers.SiglipVisionModel(theirs)


def images() -> Items:
    pixels = torch.randn(3, 3, 14, 14, generator=torch.Generator().manual_seed(3))
    return Items({"pixel_values": pixels}, ((14, 14),) * 3)


@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, tmp_path: Path) -> None:
    config, reference = both(case)

    def features(reference: Any) -> Tensor:
        output = reference(images().inputs["pixel_values"], output_hidden_states=True)
        hidden = output.last_hidden_state if config.final_norm else output.hidden_states[config.feature_layer]
        return hidden.flatten(0, 1)

    check_encoder(config, reference, tmp_path, images(), features)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, tmp_path: Path) -> None:
    check_round_trip(*both(case), tmp_path)


def test_reads_its_half_of_a_published_model(tmp_path: Path) -> None:
    """Google's folders hold a SiglipModel; only its vision half is read, and its text half is no extra tensor."""
    text = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 60}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    whole = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=THEIRS))
    whole.save_pretrained(tmp_path)
    with ours(SiglipConfig(**OURS)) as built:
        import_hf(tmp_path, built.target, built.table, built.config)
        assert torch.equal(built.target.position_embedding.weight, whole.vision_model.embeddings.position_embedding.weight)


PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("siglip")])
def test_published_size(name: str) -> None:
    figures = transformers.SiglipVisionConfig(**PUBLISHED[name]["kwargs"])
    check_published_size(f"image_encoder/{name}", transformers.SiglipVisionModel, figures, parameters=PUBLISHED[name]["parameters"])
