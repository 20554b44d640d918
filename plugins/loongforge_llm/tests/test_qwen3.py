"""Qwen3: parity with transformers, round trip, published sizes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from loongforge_llm.qwen3.config import Qwen3Config

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
    "max_position_embeddings": 40960,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 8}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "heads of 128": ({}, {}),
    "narrow heads, tied": (
        {"kv_channels": 8, "untie_embeddings_and_output_weights": False},
        {"head_dim": 8, "tie_word_embeddings": True},
    ),
    "yarn": ({"rotary_scaling": {"type": "yarn", **YARN}}, {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN}}),
}


def both(case: str) -> tuple[Qwen3Config, transformers.PreTrainedModel]:
    ours, theirs = CASES[case]
    default = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    return Qwen3Config(**OURS, **ours), transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**THEIRS, **default, **theirs}))


@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, tmp_path: Path) -> None:
    check_language_model(*both(case), tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, tmp_path: Path) -> None:
    check_round_trip(*both(case), tmp_path)


PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if re.fullmatch(r"qwen3_[\d_]+b", name)])
def test_published_size(name: str) -> None:
    figures = transformers.Qwen3Config(**PUBLISHED[name]["kwargs"])
    check_published_size(f"qwen3/{name}", transformers.Qwen3ForCausalLM, figures, parameters=PUBLISHED[name].get("parameters"))
