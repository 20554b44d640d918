"""What this plugin adds to LoongForge."""

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="backbone",
            name="qwen2",
            summary="Qwen2 and Qwen2.5, dense: grouped queries, biases on queries, keys and values",
            config="loongforge_llm.qwen2.config:Qwen2Config",
            model="loongforge_llm.qwen2.model:Qwen2Model",
            weights="loongforge_llm.qwen2.weights:table",
            reference="transformers.Qwen2ForCausalLM",
            paper="arXiv:2407.10671",
        ),
        ComponentSpec(
            kind="backbone",
            name="llama",
            summary="Llama 2, 3 and 3.1: grouped queries, no biases, Llama 3.1's rotary scaling",
            config="loongforge_llm.llama.config:LlamaConfig",
            model="loongforge_llm.llama.model:LlamaModel",
            weights="loongforge_llm.llama.weights:table",
            reference="transformers.LlamaForCausalLM",
            paper="arXiv:2407.21783",
        ),
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_llm.configs"]
