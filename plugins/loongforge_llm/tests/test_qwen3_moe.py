"""Qwen3 with experts: parity with transformers, round trip, what its folders may say, published sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from loongforge_llm.qwen3_moe.config import Qwen3MoeConfig
from loongforge_llm.qwen3_moe.weights import table

from loongforge_core.testing.parity import check_language_model
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size
from loongforge_core.weights.config_keys import config_problems, write_config

OURS: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 12,
    "vocab_size": 99,
    "num_moe_experts": 6,
    "moe_ffn_hidden_size": 20,
    "moe_router_topk": 2,
    "moe_aux_loss_coeff": 0.01,
}
THEIRS: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 99,
    "num_experts": 6,
    "moe_intermediate_size": 20,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "router_aux_loss_coef": 0.01,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "experts in all layers": ({}, {}),
    "every other layer": ({"moe_layer_freq": [0, 1, 0]}, {"decoder_sparse_step": 2}),
    "a dense layer in the middle": ({"moe_layer_freq": [1, 0, 1]}, {"mlp_only_layers": [1]}),
    "weights as scores, tied": (
        {"moe_router_pre_softmax": True, "moe_router_topk": 3, "untie_embeddings_and_output_weights": False},
        {"norm_topk_prob": False, "num_experts_per_tok": 3, "tie_word_embeddings": True},
    ),
    "one of many": ({"moe_router_pre_softmax": True, "moe_router_topk": 1}, {"norm_topk_prob": False, "num_experts_per_tok": 1}),
}


def both(case: str) -> tuple[Qwen3MoeConfig, transformers.PreTrainedModel]:
    ours, theirs = CASES[case]
    config = transformers.Qwen3MoeConfig(**{**THEIRS, **theirs})
    return Qwen3MoeConfig(**{**OURS, **ours}), transformers.Qwen3MoeForCausalLM(config)


def without_router_loss(config: Qwen3MoeConfig) -> Qwen3MoeConfig:
    return config.model_copy(update={"moe_router_load_balancing_type": "none"})


@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, tmp_path: Path) -> None:
    config, reference = both(case)
    check_language_model(without_router_loss(config), reference, tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, tmp_path: Path) -> None:
    check_round_trip(*both(case), tmp_path)


def test_what_a_folder_may_say_beside_what_transformers_writes() -> None:
    """Folders of Qwen3-Coder say what there is none of, and any folder may have been made with another router's loss."""
    config, _ = both("experts in all layers")
    published = {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0, "router_aux_loss_coef": 0.0}
    keys = table(config).keys
    assert not config_problems(keys, {**write_config(keys, config), **published}, config)
    wrong = {"qkv_bias": True, "use_qk_norm": False, "shared_expert_intermediate_size": 64}
    problems = config_problems(keys, {**write_config(keys, config), **wrong}, config)
    assert [problem.split()[0] for problem in problems] == list(wrong)


PUBLISHED = json.loads((Path(__file__).parent / "published_experts.json").read_text())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("qwen3")])
def test_published_size(name: str) -> None:
    figures = transformers.Qwen3MoeConfig(**PUBLISHED[name]["kwargs"])
    check_published_size(f"qwen3/{name}", transformers.Qwen3MoeForCausalLM, figures, parameters=PUBLISHED[name]["parameters"], layers=2)
