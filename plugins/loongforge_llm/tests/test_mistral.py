"""Mistral: parity with transformers, windows shorter than the sequences among them; round trip, published sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from loongforge_llm.mistral.config import MistralConfig

from loongforge_core.testing.parity import check_language_model
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size
from loongforge_core.weights.folder import read_json

OURS = {"num_layers": 3, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "num_query_groups": 2, "vocab_size": 99}
THEIRS: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "sliding_window": None,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 8}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no window": ({}, {}),
    "window of four": ({"sliding_window": 4}, {"sliding_window": 4}),
    "window of one": ({"sliding_window": 1}, {"sliding_window": 1}),
    "window as long as the longest but one": ({"sliding_window": 7}, {"sliding_window": 7}),
    "window, wide heads, tied, yarn": (
        {
            "sliding_window": 3,
            "kv_channels": 12,
            "untie_embeddings_and_output_weights": False,
            "rotary_scaling": {"type": "yarn", **YARN},
        },
        {
            "sliding_window": 3,
            "head_dim": 12,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN},
        },
    ),
}


def both(case: str) -> tuple[MistralConfig, transformers.PreTrainedModel]:
    ours, theirs = CASES[case]
    return MistralConfig(**OURS, **ours), transformers.MistralForCausalLM(transformers.MistralConfig(**{**THEIRS, **theirs}))


@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, tmp_path: Path) -> None:
    check_language_model(*both(case), tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, tmp_path: Path) -> None:
    check_round_trip(*both(case), tmp_path)


def test_an_export_says_that_there_is_no_window(tmp_path: Path) -> None:
    """Left out, it would be a window of 4096 tokens to transformers."""
    check_round_trip(*both("no window"), tmp_path)
    assert read_json(tmp_path / "export" / "config.json")["sliding_window"] is None


PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("mistral")])
def test_published_size(name: str) -> None:
    figures = transformers.MistralConfig(**PUBLISHED[name]["kwargs"])
    check_published_size(f"mistral/{name}", transformers.MistralForCausalLM, figures, parameters=PUBLISHED[name].get("parameters"))
