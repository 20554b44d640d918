"""An encoder of transformers in front of a language model: in every layout, each rank of the first stage holds all of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loongforge_hf.hf_encoder.config import HfEncoderConfig
from tiny_models import TINY, items_of

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.errors import ConfigError
from loongforge_core.layers.interfaces import Items
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.batches import batches_with_items
from loongforge_core.testing.layouts import Layout, check_layouts

FOUNDATION = {"type": "qwen2", "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 32, "num_attention_heads": 4, "num_query_groups": 2}
FOUNDATION |= {"vocab_size": 101, "init_method_std": 0.1}
# The gradient of a key's bias is nothing but rounding, about 1e-9: with the usual 1e-8 Adam would make steps of it.
TRAIN = {"lr": 1e-2, "steps": 2, "lr_warmup_steps": 1, "adam_eps": 1e-5}

LAYOUTS = [
    Layout(tensor=2, sequence_parallel=True, recompute="full"),
    Layout(pipeline=2),
    Layout(pipeline=2, encoder_stage=True),
]


def composition(name: str, *, world_size: int = 1, **run: Any) -> Composition:
    modality = HfEncoderConfig(name=name, config=TINY[name]).architecture.modality
    model = {
        f"{modality}_encoder": {"type": "hf_encoder", "name": name, "config": TINY[name], "init_method_std": 0.1},
        f"{modality}_projector": {"type": "mlp", "init_method_std": 0.1},
        "foundation": FOUNDATION,
    }
    return composition_from({"model": model, "train": TRAIN, **run}, Registry.discover(), world_size=world_size)


def test_every_layout_equals_one_process() -> None:
    """Of sounds of unequal lengths, whose positions are a convolution that has a norm for weights."""
    tiny = composition("wav2vec2")
    (modality,) = tiny.modalities
    config = tiny.encoder(modality)
    assert isinstance(config, HfEncoderConfig)

    def draw(number: int, random: torch.Generator) -> Items:
        return items_of(config, number, random)

    check_layouts(tiny, LAYOUTS, batches_with_items(tiny, modality, draw))


def test_a_split_encoder_is_refused() -> None:
    parallel = {"tensor_model_parallel_size": 2, "image_encoder": {"layout": "tensor", "tensor_model_parallel_size": 2}}
    with pytest.raises(ConfigError, match=r"it is not made to be split, and each of 2 ranks would hold all of it"):
        composition("vit", world_size=2, parallel=parallel)
    assert composition("vit", world_size=2, parallel={"tensor_model_parallel_size": 2}).encoder("image")
