"""DeepSeek-V2 and V2-Lite on disk: `DeepseekV2ForCausalLM`. The keys that V3 has too are shared with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loongforge_core.layers.expert_config import ExpertDecoderConfig
from loongforge_core.weights.config_keys import ConfigKey, Constant, Ignored, Key, Unwritten
from loongforge_core.weights.decoder import ROTARY_BUFFERS, decoder_keys, rules_around, tied_head
from loongforge_core.weights.experts import RouterLoss, Together, expert_layer_rules, replaced_keys
from loongforge_core.weights.latent import latent_attention_rules, latent_keys
from loongforge_core.weights.table import Table
from loongforge_llm.deepseek_v2.config import DeepseekV2Config

__all__ = ["deepseek_keys", "table"]

DEFAULTS = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "vocab_size": 102400,
    "max_position_embeddings": 2048,
    "n_routed_experts": 64,
    "moe_intermediate_size": 1407,
    "n_shared_experts": 2,
    "first_k_dense_replace": 0,
    "routed_scaling_factor": 1.0,
}


def table(config: DeepseekV2Config) -> Table:
    return Table(
        rules=rules_around(config, expert_layer_rules(config, latent_attention_rules(config))),
        keys=(
            *deepseek_keys(DEFAULTS),
            Together(("topk_method", "n_group", "topk_group"), groups, topk_method),
            Constant("norm_topk_prob", False, False),
            Unwritten("scoring_func", "softmax", "softmax"),
            Constant("mlp_bias", False, False),
        ),
        model_type="deepseek_v2",
        architectures=("DeepseekV2ForCausalLM",),
        ignored=ROTARY_BUFFERS,
        tied=tied_head(config),
        generates=True,
    )


def deepseek_keys(defaults: Mapping[str, Any]) -> tuple[ConfigKey, ...]:
    """What V2 and V3 have in common; `defaults` are those of the class."""
    shared = defaults["n_shared_experts"]
    return replaced_keys(
        decoder_keys(defaults),
        *latent_keys(),
        Key("n_routed_experts", "num_moe_experts", defaults["n_routed_experts"], also=("num_experts", "num_local_experts")),
        Key("num_experts_per_tok", "moe_router_topk", defaults.get("num_experts_per_tok")),
        Key("moe_intermediate_size", "moe_ffn_hidden_size", defaults["moe_intermediate_size"]),
        Key("routed_scaling_factor", "moe_router_topk_scaling_factor", defaults["routed_scaling_factor"]),
        RouterLoss("aux_loss_alpha", "moe_aux_loss_coeff", 0.001, optional=True),
        Together(
            ("n_shared_experts",),
            lambda given: {"moe_shared_expert_intermediate_size": given.get("n_shared_experts", shared) * given["moe_intermediate_size"]},
            shared_experts,
            needs=("moe_intermediate_size",),
        ),
        Together(
            ("first_k_dense_replace",),
            lambda given: expert_layers(given.get("first_k_dense_replace", defaults["first_k_dense_replace"]), given["num_hidden_layers"]),
            first_dense_layers,
            needs=("num_hidden_layers",),
        ),
        Unwritten("moe_layer_freq", 1, 1),
        Ignored(("seq_aux",), "what the router's loss is over; here moe_router_load_balancing_type says so"),
        Ignored(("output_router_logits",), "what transformers returns beside logits"),
        Ignored(("auto_map.*",), "code of the folder, which nothing runs"),
    )


def shared_experts(config: ExpertDecoderConfig) -> Mapping[str, Any]:
    assert config.moe_shared_expert_intermediate_size is not None
    number = config.moe_shared_expert_intermediate_size // config.moe_ffn_hidden_size
    return {"n_shared_experts": number, "moe_intermediate_size": config.moe_ffn_hidden_size}


def expert_layers(dense: int, layers: int) -> Mapping[str, Any]:
    return {"moe_layer_freq": [int(layer >= dense) for layer in range(layers)]}


def first_dense_layers(config: ExpertDecoderConfig) -> Mapping[str, Any]:
    return {"first_k_dense_replace": config.expert_layers.index(True), "num_hidden_layers": config.num_layers}


def groups(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the method that limits a token to groups, their number means nothing."""
    limited = given.get("topk_method", "greedy") == "group_limited_greedy"
    names = {"moe_router_num_groups": "n_group", "moe_router_group_topk": "topk_group"}
    return {ours: given.get(theirs) if limited else None for ours, theirs in names.items()}


def topk_method(config: ExpertDecoderConfig) -> Mapping[str, Any]:
    number, chosen = config.moe_router_num_groups, config.moe_router_group_topk
    method = "greedy" if number is None else "group_limited_greedy"
    return {"topk_method": method, "n_group": number or 1, "topk_group": chosen or 1}
