"""Qwen1.5, 2 and 2.5: parity with transformers, round trip, published sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from loongforge_llm.qwen2.config import Qwen2Config

from loongforge_core.testing.parity import check_language_model
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size

OURS = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "num_query_groups": 2, "vocab_size": 99}
THEIRS = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}


def reference(*, tied: bool) -> transformers.PreTrainedModel:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**THEIRS, tie_word_embeddings=tied))


def config(*, tied: bool) -> Qwen2Config:
    return Qwen2Config(**OURS, untie_embeddings_and_output_weights=not tied)


@pytest.mark.parametrize("tied", [False, True])
def test_parity(tied: bool, tmp_path: Path) -> None:
    check_language_model(config(tied=tied), reference(tied=tied), tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tied: bool, tmp_path: Path) -> None:
    check_round_trip(config(tied=tied), reference(tied=tied), tmp_path)


PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


def group(name: str) -> str:
    return next(
        group for prefix, group in {"qwen1_5": "qwen", "qwen2_5": "qwen2.5", "qwen2": "qwen2"}.items() if name.startswith(prefix + "_")
    )


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith(("qwen1", "qwen2"))])
def test_published_size(name: str) -> None:
    figures = transformers.Qwen2Config(**PUBLISHED[name]["kwargs"])
    check_published_size(f"{group(name)}/{name}", transformers.Qwen2ForCausalLM, figures, parameters=PUBLISHED[name].get("parameters"))
