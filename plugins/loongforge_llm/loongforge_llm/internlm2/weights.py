"""InternLM2 and 2.5 on disk: `InternLM2ForCausalLM`, whose class is published with the weights and is not in transformers."""

from __future__ import annotations

from loongforge_core.weights.config_keys import Constant, Ignored, Key
from loongforge_core.weights.decoder import ROTARY_BUFFERS, ScalingKey, decoder_keys
from loongforge_core.weights.rules import Copy, FusedGateUp, Rule, per_layer
from loongforge_core.weights.table import Table
from loongforge_llm.internlm2.config import InternLM2Config

__all__ = ["table"]

DEFAULTS = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "vocab_size": 103168,
    "max_position_embeddings": 2048,
}

SCALING_TYPES = {None: None, "linear": "linear", "dynamic": "dynamic"}


def table(config: InternLM2Config) -> Table:
    tied = not config.untie_embeddings_and_output_weights
    return Table(
        rules=rules(config),
        keys=(
            *decoder_keys(
                DEFAULTS,
                rotary=(
                    Key("rope_theta", "rotary_base", 10000.0),
                    Key("rope_scaling.type", "rotary_scaling.type", None, values=SCALING_TYPES),
                    ScalingKey("rope_scaling.factor", "rotary_scaling.factor"),
                ),
            ),
            Constant("bias", False, True),
            Ignored(("pretraining_tp",), "tensor parallelism of the original training; the numbers are the same"),
            Ignored(("attn_implementation", "auto_map.*"), "which of the published files and kernels to run"),
        ),
        model_type="internlm2",
        architectures=("InternLM2ForCausalLM",),
        ignored=ROTARY_BUFFERS,
        tied={"output.weight": "model.tok_embeddings.weight"} if tied else {},
        generates=True,
    )


def rules(config: InternLM2Config) -> tuple[Rule, ...]:
    layer = (
        Copy("attention_norm", "input_layernorm"),
        # For every group of heads its queries, its key, its value: Megatron's own order.
        Copy("attention.wqkv", "self_attention.linear_qkv"),
        Copy("attention.wo", "self_attention.linear_proj"),
        Copy("ffn_norm", "pre_mlp_layernorm"),
        FusedGateUp(("feed_forward.w1", "feed_forward.w3"), "mlp.linear_fc1"),
        Copy("feed_forward.w2", "mlp.linear_fc2"),
    )
    head = (Copy("output", "output_layer"),) if config.untie_embeddings_and_output_weights else ()
    return (
        Copy("model.tok_embeddings", "embedding.word_embeddings"),
        *per_layer(layer, "model.layers.{i}.", "decoder.layers.{i}.", range(config.num_layers)),
        Copy("model.norm", "decoder.final_layernorm"),
        *head,
    )
