"""Qwen3 with experts on disk: `Qwen3MoeForCausalLM`, every expert by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loongforge_core.weights.config_keys import Constant, Ignored, Key, Unwritten
from loongforge_core.weights.decoder import ROTARY_BUFFERS, attention_rules, decoder_keys, rules_around, tied_head
from loongforge_core.weights.experts import RouterLoss, Together, expert_layer_rules
from loongforge_core.weights.table import Table
from loongforge_llm.qwen3_moe.config import Qwen3MoeConfig

__all__ = ["table"]

DEFAULTS = {
    "num_hidden_layers": 24,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 32,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
}


def table(config: Qwen3MoeConfig) -> Table:
    return Table(
        rules=rules_around(config, expert_layer_rules(config, attention_rules(config))),
        keys=(
            *decoder_keys(DEFAULTS),
            Key("num_experts", "num_moe_experts", 128, also=("num_local_experts",)),
            Key("num_experts_per_tok", "moe_router_topk", 8),
            Key("moe_intermediate_size", "moe_ffn_hidden_size", 768),
            Key("norm_topk_prob", "moe_router_pre_softmax", False, values={True: False, False: True}),
            RouterLoss("router_aux_loss_coef", "moe_aux_loss_coeff", 0.001),
            Together(("decoder_sparse_step", "mlp_only_layers"), expert_layers, shortest, needs=("num_hidden_layers",)),
            Constant("attention_bias", False, False),
            Constant("use_sliding_window", False, False),
            # Qwen3-Coder's folders say so; transformers knows none of the three.
            Unwritten("qkv_bias", False, False),
            Unwritten("use_qk_norm", True, True),
            Unwritten("shared_expert_intermediate_size", 0, 0),
            Ignored(("sliding_window", "max_window_layers"), "no effect without use_sliding_window"),
            Ignored(("output_router_logits",), "whether transformers has a router's loss; here moe_router_load_balancing_type says so"),
        ),
        model_type="qwen3_moe",
        architectures=("Qwen3MoeForCausalLM",),
        ignored=ROTARY_BUFFERS,
        tied=tied_head(config),
        generates=True,
    )


def expert_layers(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Every so many layers, counted from one, has experts, but for those that are listed."""
    step, listed = given.get("decoder_sparse_step", 1), given.get("mlp_only_layers", [])
    return {"moe_layer_freq": [int((layer + 1) % step == 0 and layer not in listed) for layer in range(given["num_hidden_layers"])]}


def shortest(config: Qwen3MoeConfig) -> Mapping[str, Any]:
    """The step with which the fewest layers need to be listed."""
    pattern = [int(has) for has in config.expert_layers]
    ways = []
    for step in range(1, config.num_layers + 1):
        listed = [layer for layer, has in enumerate(pattern) if (layer + 1) % step == 0 and not has]
        ways.append({"num_hidden_layers": config.num_layers, "decoder_sparse_step": step, "mlp_only_layers": listed})
    return min((way for way in ways if expert_layers(way)["moe_layer_freq"] == pattern), key=lambda way: len(way["mlp_only_layers"]))
