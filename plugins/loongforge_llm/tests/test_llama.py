"""Llama: parity with transformers, with every rotary scaling; round trip, published sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from loongforge_llm.llama.config import LlamaConfig
from loongforge_llm.llama.weights import table

from loongforge_core.testing.parity import LENGTHS, check_language_model
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size
from loongforge_core.weights.config_keys import config_fields, config_problems

OURS = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "vocab_size": 99}
THEIRS = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 99}

# The lengthened context is short here, so that a few positions see every branch of the scaling: kept, blended, divided.
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"factor": 4.0, "original_max_position_embeddings": 8}
TURNS = {"beta_fast": 4.0, "beta_slow": 0.5, "truncate": False}
MSCALES = {"mscale": 1.0, "mscale_all_dim": 0.7}


def scaled(kind: str, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        {"rotary_scaling": {"type": kind, **parameters}},
        {"rope_parameters": {"rope_type": kind, "rope_theta": 5e5, **parameters}},
    )


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one key for every query": ({}, {}),
    "grouped queries": ({"num_query_groups": 2}, {"num_key_value_heads": 2}),
    "wide heads": ({"num_query_groups": 1, "kv_channels": 12}, {"num_key_value_heads": 1, "head_dim": 12}),
    "tied": ({"untie_embeddings_and_output_weights": False}, {"tie_word_embeddings": True}),
    "linear scaling": scaled("linear", factor=4.0),
    "dynamic scaling, within the original length": scaled("dynamic", factor=2.0),
    "llama3 scaling": scaled("llama3", **LLAMA3),
    "yarn": scaled("yarn", **YARN),
    "yarn with every switch": scaled("yarn", **YARN, **TURNS, **MSCALES),
    "yarn of a stated magnitude": scaled("yarn", **YARN, attention_factor=0.8),
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


def test_dynamic_scaling_of_a_longer_run(tmp_path: Path) -> None:
    """The reference's base for its longest sequence is the run's; the batch has shorter ones beside it."""
    config = LlamaConfig(**OURS, max_position_embeddings=6, rotary_base=100.0, rotary_scaling={"type": "dynamic", "factor": 3.0})
    rotary = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 3.0}
    theirs = transformers.LlamaConfig(**THEIRS, rms_norm_eps=1e-5, max_position_embeddings=6, rope_parameters=rotary)
    check_language_model(config, transformers.LlamaForCausalLM(theirs), tmp_path, max_sequence_length=max(LENGTHS))


OLD_SPELLINGS = {
    "rope_theta": 1e6,
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "beta_fast": 32, "mscale": 0.5},
}


def test_folders_from_before_version_5_say_the_same() -> None:
    """Their base stands alone and the rest in `rope_scaling`; what is left out means what transformers assumes."""
    config = LlamaConfig(
        **OURS, rotary_base=1e6, rotary_scaling={**YARN, "original_max_position_embeddings": 32768, "mscale": 0.5, "type": "yarn"}
    )
    keys = table(config).keys
    given = {**THEIRS, "rms_norm_eps": 1e-5, "max_position_embeddings": 32768, **OLD_SPELLINGS}
    assert not config_problems(keys, given, config)
    assert LlamaConfig(**config_fields(keys, given)).rotary_scaling == config.rotary_scaling
    del given["rope_scaling"]["original_max_position_embeddings"]
    assert not config_problems(keys, given, config)
    given["rope_scaling"]["beta_slow"] = 2.0
    (said,) = config_problems(keys, given, config)
    assert said == "rope_scaling.beta_slow is 2.0 in the file, but our rotary_scaling.beta_slow says 1.0"
    given["rope_scaling"] = {"type": "linear", "factor": 4.0}
    assert sorted(said.split()[0] for said in config_problems(keys, given, config)) == ["rope_parameters.mscale", "rope_scaling.type"]


PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("llama")])
def test_published_size(name: str) -> None:
    figures = transformers.LlamaConfig(**PUBLISHED[name]["kwargs"])
    group = name.split("_")[0]
    check_published_size(f"{group}/{name}", transformers.LlamaForCausalLM, figures, parameters=PUBLISHED[name].get("parameters"))
