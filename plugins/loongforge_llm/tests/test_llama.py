"""Llama: parity with transformers, with and without Llama 3.1's rotary scaling; round trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from loongforge_llm.llama.config import LlamaConfig

from loongforge_core.testing.parity import check_language_model
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size

OURS = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "vocab_size": 99}
THEIRS = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 99}

# The lengthened context is short here, so that a few positions see every branch of the scaling: kept, blended, divided.
SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one key for every query": ({}, {}),
    "grouped queries": ({"num_query_groups": 2}, {"num_key_value_heads": 2}),
    "wide heads": ({"num_query_groups": 1, "kv_channels": 12}, {"num_key_value_heads": 1, "head_dim": 12}),
    "tied": ({"untie_embeddings_and_output_weights": False}, {"tie_word_embeddings": True}),
    "llama3 scaling": ({"rotary_scaling": SCALING}, {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **SCALING}}),
}


def both(case: str) -> tuple[LlamaConfig, transformers.PreTrainedModel]:
    ours, theirs = CASES[case]
    defaults = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rms_norm_eps": 1e-5, "max_position_embeddings": 32768}
    return LlamaConfig(**OURS, **ours), transformers.LlamaForCausalLM(transformers.LlamaConfig(**THEIRS, **{**defaults, **theirs}))


@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, tmp_path: Path) -> None:
    check_language_model(*both(case), tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, tmp_path: Path) -> None:
    check_round_trip(*both(case), tmp_path)


PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("llama3")])
def test_published_size(name: str) -> None:
    figures = transformers.LlamaConfig(**PUBLISHED[name]["kwargs"])
    check_published_size(f"llama3/{name}", transformers.LlamaForCausalLM, figures, parameters=PUBLISHED[name]["parameters"])
