"""Every family of language models beside its class in `transformers`, for `benchmarks.components`.

InternLM2 has no class there. It is Llama's decoder with queries, keys and values in one tensor on disk, so that `LlamaForCausalLM` computes
the same of the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import transformers
from loongforge_llm.deepseek_v2.config import DeepseekV2Config
from loongforge_llm.deepseek_v3.config import DeepseekV3Config
from loongforge_llm.internlm2.config import InternLM2Config
from loongforge_llm.llama.config import LlamaConfig
from loongforge_llm.llama.weights import table as llama_table
from loongforge_llm.mistral.config import MistralConfig
from loongforge_llm.qwen2.config import Qwen2Config
from loongforge_llm.qwen3.config import Qwen3Config
from loongforge_llm.qwen3_moe.config import Qwen3MoeConfig
from torch import Tensor

from benchmarks.case import SIDE_BY_SIDE, Case
from loongforge_core.component import ComponentConfig
from loongforge_core.weights.table import Table

__all__ = ["language_models"]

SAMPLES, LENGTH, VOCABULARY = 4, 256, 2048

OURS = {
    "num_layers": 4,
    "hidden_size": 256,
    "ffn_hidden_size": 1024,
    "num_attention_heads": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
}
THEIRS = {
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "attn_implementation": "sdpa",
    "use_cache": False,
    "tie_word_embeddings": False,
}
GROUPED = {"num_query_groups": 4}, {"num_key_value_heads": 4}
NARROW = {"kv_channels": 32}, {"head_dim": 32}
WINDOW = {"sliding_window": 64}
EXPERTS = (
    {"num_moe_experts": 16, "moe_router_topk": 4, "moe_ffn_hidden_size": 256, "moe_router_load_balancing_type": "none"},
    {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256, "norm_topk_prob": True},
)
LATENT = (
    {
        "q_lora_rank": 96,
        "kv_lora_rank": 64,
        "qk_head_dim": 32,
        "qk_pos_emb_head_dim": 16,
        "v_head_dim": 32,
        "num_moe_experts": 16,
        "moe_router_topk": 4,
        "moe_ffn_hidden_size": 256,
        "moe_shared_expert_intermediate_size": 256,
        "moe_layer_freq": [0, 1, 1, 1],
        "moe_router_load_balancing_type": "none",
        "moe_router_num_groups": 4,
        "moe_router_group_topk": 2,
    },
    {
        "num_key_value_heads": 8,
        "q_lora_rank": 96,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 256,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 4,
        "topk_group": 2,
    },
)


ONE_BY_ONE = "Experts are Megatron's, each called by itself; the reference has those of a layer in one tensor and makes one call of them."


def theta(base: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": base}}


def language_models() -> Iterator[Case]:
    """Of 4 sequences of 256 tokens, the logits."""
    yield from dense()
    yield from with_experts()


def case(
    name: str,
    config: ComponentConfig,
    reference: Any,
    *,
    footnote: str = SIDE_BY_SIDE,
    table: Table | None = None,
    length: int = LENGTH,
    device: torch.device | None = None,
) -> Case:
    ids_bs = torch.randint(0, VOCABULARY, (SAMPLES, length), generator=torch.Generator().manual_seed(1)).to(device)
    positions_bs = torch.arange(length, device=device).expand(SAMPLES, -1)

    def run_ours(component: Any) -> Tensor:
        logits: Tensor = component(component.embed(ids_bs), positions_bs, token_ids_bs=ids_bs)
        return logits

    def run_reference(reference: Any) -> Tensor:
        logits: Tensor = reference(input_ids=ids_bs).logits
        return logits

    return Case(
        name=name,
        config=config,
        reference=reference,
        run_ours=run_ours,
        run_reference=run_reference,
        table=table,
        footnote=footnote,
    )


def dense() -> Iterator[Case]:
    ours, theirs = {**OURS, **GROUPED[0]}, {**THEIRS, **GROUPED[1]}
    llama = transformers.LlamaConfig(**theirs, **theta(5e5), rms_norm_eps=1e-5)
    yield case("llama", LlamaConfig(**ours), transformers.LlamaForCausalLM(llama))
    as_llama = InternLM2Config(**ours, rotary_base=5e5)
    yield case("internlm2 : llama", as_llama, transformers.LlamaForCausalLM(llama), table=llama_table(as_llama))
    yield case("qwen2", Qwen2Config(**ours), transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**theirs, **theta(1e6))))
    qwen3 = transformers.Qwen3Config(**theirs, **NARROW[1], **theta(1e6))
    yield case("qwen3", Qwen3Config(**ours, **NARROW[0]), transformers.Qwen3ForCausalLM(qwen3))
    mistral = transformers.MistralConfig(**theirs, **WINDOW, **NARROW[1], **theta(1e4))
    window = MistralConfig(**ours, **WINDOW, rotary_base=1e4, layernorm_epsilon=1e-6)
    yield case("mistral, window of 64", window, transformers.MistralForCausalLM(mistral))


def with_experts() -> Iterator[Case]:
    qwen3 = transformers.Qwen3MoeConfig(**THEIRS, **GROUPED[1], **NARROW[1], **EXPERTS[1], **theta(1e6))
    ours = Qwen3MoeConfig(**OURS, **GROUPED[0], **NARROW[0], **EXPERTS[0])
    yield case("qwen3_moe, 4 of 16 experts", ours, transformers.Qwen3MoeForCausalLM(qwen3), footnote=ONE_BY_ONE)
    for name, config, reference in (
        ("deepseek_v2", DeepseekV2Config, deepseek_v2()),
        ("deepseek_v3", DeepseekV3Config, deepseek_v3()),
    ):
        yield case(f"{name}, 4 of 16 experts", config(**OURS, **LATENT[0], **SCALED[name]), reference, footnote=ONE_BY_ONE)


SCALED: dict[str, dict[str, Any]] = {"deepseek_v2": {}, "deepseek_v3": {"moe_router_topk_scaling_factor": 2.5}}


def deepseek_v2() -> Any:
    config = transformers.DeepseekV2Config(**THEIRS, **LATENT[1], **theta(1e4), topk_method="group_limited_greedy")
    return transformers.DeepseekV2ForCausalLM(config)


def deepseek_v3() -> Any:
    config = transformers.DeepseekV3Config(**THEIRS, **LATENT[1], **theta(1e4), routed_scaling_factor=2.5, num_nextn_predict_layers=0)
    return transformers.DeepseekV3ForCausalLM(config)
