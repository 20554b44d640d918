"""What this plugin adds to LoongForge."""

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="backbone",
            name="qwen2",
            summary="Qwen1.5, Qwen2 and Qwen2.5, dense: grouped queries, biases on queries, keys and values",
            config="loongforge_llm.qwen2.config:Qwen2Config",
            model="loongforge_llm.qwen2.model:Qwen2Model",
            weights="loongforge_llm.qwen2.weights:table",
            reference="transformers.Qwen2ForCausalLM",
            paper="arXiv:2407.10671",
            left_out="dropout, windows (use_sliding_window), key-value cache",
        ),
        ComponentSpec(
            kind="backbone",
            name="llama",
            summary="Llama 2, 3 and 3.1: grouped queries, no biases, rotary scaling of every kind",
            config="loongforge_llm.llama.config:LlamaConfig",
            model="loongforge_llm.llama.model:LlamaModel",
            weights="loongforge_llm.llama.weights:table",
            reference="transformers.LlamaForCausalLM",
            paper="arXiv:2407.21783",
            left_out="dropout, biases (attention_bias, mlp_bias), key-value cache",
        ),
        ComponentSpec(
            kind="backbone",
            name="qwen3",
            summary="Qwen3, dense: grouped queries, queries and keys normalised head by head, no biases",
            config="loongforge_llm.qwen3.config:Qwen3Config",
            model="loongforge_llm.qwen3.model:Qwen3Model",
            weights="loongforge_llm.qwen3.weights:table",
            reference="transformers.Qwen3ForCausalLM",
            paper="arXiv:2505.09388",
            left_out="dropout, biases (attention_bias), windows (use_sliding_window), key-value cache",
        ),
        ComponentSpec(
            kind="backbone",
            name="internlm2",
            summary="InternLM2 and 2.5: grouped queries from one fused projection, dynamic rotary scaling",
            config="loongforge_llm.internlm2.config:InternLM2Config",
            model="loongforge_llm.internlm2.model:InternLM2Model",
            weights="loongforge_llm.internlm2.weights:table",
            reference="InternLM2ForCausalLM as published with internlm/internlm2_5-7b-chat; transformers has no such class",
            paper="arXiv:2403.17297",
            left_out="biases (bias), key-value cache",
        ),
        ComponentSpec(
            kind="backbone",
            name="mistral",
            summary="Mistral 7B, Nemo and Small: grouped queries, no biases, a sliding window in the first",
            config="loongforge_llm.mistral.config:MistralConfig",
            model="loongforge_llm.mistral.model:MistralModel",
            weights="loongforge_llm.mistral.weights:table",
            reference="transformers.MistralForCausalLM",
            paper="arXiv:2310.06825",
            left_out="dropout, key-value cache",
        ),
        ComponentSpec(
            kind="backbone",
            name="qwen3_moe",
            summary="Qwen3 with experts: as qwen3, a softmax router and experts without shared ones",
            config="loongforge_llm.qwen3_moe.config:Qwen3MoeConfig",
            model="loongforge_llm.qwen3_moe.model:Qwen3MoeModel",
            weights="loongforge_llm.qwen3_moe.weights:table",
            reference="transformers.Qwen3MoeForCausalLM",
            left_out="dropout, biases (attention_bias), windows (use_sliding_window), key-value cache",
            paper="arXiv:2505.09388",
        ),
        ComponentSpec(
            kind="backbone",
            name="deepseek_v2",
            summary="DeepSeek-V2 and V2-Lite: latent attention, shared experts, a softmax router that is limited to a few groups",
            config="loongforge_llm.deepseek_v2.config:DeepseekV2Config",
            model="loongforge_llm.deepseek_v2.model:DeepseekV2Model",
            weights="loongforge_llm.deepseek_v2.weights:table",
            reference="transformers.DeepseekV2ForCausalLM",
            left_out="dropout, biases (attention_bias, mlp_bias), cache of latent states",
            paper="arXiv:2405.04434",
        ),
        ComponentSpec(
            kind="backbone",
            name="deepseek_v3",
            summary="DeepSeek-V3: as V2, a sigmoid router with a bias; layers for multi-token prediction are carried, not trained",
            config="loongforge_llm.deepseek_v3.config:DeepseekV3Config",
            model="loongforge_llm.deepseek_v3.model:DeepseekV3Model",
            weights="loongforge_llm.deepseek_v3.weights:table",
            reference="transformers.DeepseekV3ForCausalLM",
            left_out="multi-token prediction, whose layers are carried, untrained; folders in FP8, dropout, biases, cache of latent states",
            paper="arXiv:2412.19437",
        ),
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_llm.configs"]
