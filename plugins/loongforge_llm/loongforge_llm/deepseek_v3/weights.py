"""DeepSeek-V3 on disk: `DeepseekV3ForCausalLM`, with the layers behind the last one that transformers does not build.

The folder that its authors publish is in FP8 with a scale for each block, which is not read: start from one in bfloat16.
"""

from __future__ import annotations

from typing import Any

from loongforge_core.weights.config_keys import Constant, Given, Key, Unwritten
from loongforge_core.weights.decoder import ROTARY_BUFFERS, THEIR_LAYER, rules_around, tied_head
from loongforge_core.weights.experts import expert_layer_rules, expert_rules
from loongforge_core.weights.latent import latent_attention_rules
from loongforge_core.weights.rules import Copy, Rule, per_layer
from loongforge_core.weights.table import Table
from loongforge_llm.deepseek_v2.weights import deepseek_keys
from loongforge_llm.deepseek_v3.config import DeepseekV3Config

__all__ = ["table"]

DEFAULTS = {
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_attention_heads": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 4096,
    "n_routed_experts": 256,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "routed_scaling_factor": 2.5,
    "num_experts_per_tok": 8,
}


class PredictionLayers(Key):
    """Folders that transformers has written state layers that are not there. Where we have none, it is the tensors that tell."""

    def problem(self, given: Given, config: Any) -> str:
        return super().problem(given, config) if self.expected(config) else ""


def table(config: DeepseekV3Config) -> Table:
    layers = expert_layer_rules(config, latent_attention_rules(config))
    return Table(
        rules=rules_around(config, (*layers, *prediction_rules(config))),
        keys=(
            *deepseek_keys(DEFAULTS),
            Key("n_group", "moe_router_num_groups", 8),
            Key("topk_group", "moe_router_group_topk", 4),
            PredictionLayers("num_nextn_predict_layers", "mtp_num_layers", 1, also=("num_mtp_layers",)),
            Constant("norm_topk_prob", True, True),
            Constant("rope_interleave", True, True),
            Unwritten("scoring_func", "sigmoid", "sigmoid"),
            Unwritten("topk_method", "noaux_tc", "noaux_tc"),
        ),
        model_type="deepseek_v3",
        architectures=("DeepseekV3ForCausalLM",),
        ignored=ROTARY_BUFFERS,
        tied=tied_head(config),
        carried={"mtp.*": "multi-token prediction, which is neither run nor trained"},
        generates=True,
    )


def prediction_rules(config: DeepseekV3Config) -> tuple[Rule, ...]:
    """Numbered on disk as layers behind the last one."""
    inside = (*latent_attention_rules(config), *expert_rules(config))
    modules = {
        "embed_tokens": "embedding",
        "enorm": "enorm",
        "hnorm": "hnorm",
        "eh_proj": "eh_proj",
        "shared_head.norm": "final_layernorm",
        "shared_head.head": "output_layer",
    }
    layer = (
        *(Copy(theirs, ours) for theirs, ours in modules.items()),
        *(rule.under("", "transformer_layer.") for rule in inside),
    )
    first = config.num_layers
    return per_layer(layer, THEIR_LAYER, "mtp.{i}.", range(first, first + config.mtp_num_layers), first=first)
