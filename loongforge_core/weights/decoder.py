"""The tables of the shared dense decoder's families: tensors and config.json keys that Qwen2, Llama and their like have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.weights.config_keys import GENERIC_KEYS, ConfigKey, Constant, Given, Key, join_path, lookup
from loongforge_core.weights.rules import WEIGHT, WEIGHT_AND_BIAS, Copy, FusedGateUp, FusedQkv, Rule, per_layer

__all__ = [
    "ROTARY_BUFFERS",
    "ScalingKey",
    "attention_rules",
    "decoder_keys",
    "decoder_rules",
    "mlp_rules",
    "rotary_keys",
    "rules_around",
    "tied_head",
]

THEIR_LAYER, OUR_LAYER = "model.layers.{i}.", "decoder.layers.{i}."

ROTARY_BUFFERS: Mapping[str, str] = {"*.rotary_emb.inv_freq": "rotary angles, which follow from config.json"}


def decoder_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Names as `Qwen2ForCausalLM` and `LlamaForCausalLM` have them on disk."""
    layer = (*attention_rules(config), *mlp_rules("mlp."))
    return rules_around(config, per_layer(layer, THEIR_LAYER, OUR_LAYER, range(config.num_layers)))


def rules_around(config: DecoderConfig, layers: Iterable[Rule]) -> tuple[Rule, ...]:
    """The whole decoder's, of which `layers` are those of all layers."""
    head = (Copy("lm_head", "output_layer"),) if config.untie_embeddings_and_output_weights else ()
    return (Copy("model.embed_tokens", "embedding.word_embeddings"), *layers, Copy("model.norm", "decoder.final_layernorm"), *head)


def attention_rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Of one layer: both norms, and the attention between them."""
    names = {"self_attn.q_norm": "self_attention.q_layernorm", "self_attn.k_norm": "self_attention.k_layernorm"}
    head_norms = [Copy(theirs, ours) for theirs, ours in names.items()] if config.qk_layernorm else []
    return (
        Copy("input_layernorm", "input_layernorm"),
        FusedQkv(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "self_attention.linear_qkv",
            parts=WEIGHT_AND_BIAS if config.add_qkv_bias else WEIGHT,
            num_heads=config.num_attention_heads,
            num_groups=config.groups,
            head_size=config.head_size,
        ),
        *head_norms,
        Copy("self_attn.o_proj", "self_attention.linear_proj"),
        Copy("post_attention_layernorm", "pre_mlp_layernorm"),
    )


def mlp_rules(theirs: str, ours: str = "mlp.") -> tuple[Rule, ...]:
    """A gated MLP under these prefixes."""
    return (
        FusedGateUp((f"{theirs}gate_proj", f"{theirs}up_proj"), f"{ours}linear_fc1"),
        Copy(f"{theirs}down_proj", f"{ours}linear_fc2"),
    )


def tied_head(config: DecoderConfig) -> Mapping[str, str]:
    return {} if config.untie_embeddings_and_output_weights else {"lm_head.weight": "model.embed_tokens.weight"}


class RotaryType(Key):
    """Folders of Qwen2-VL and Qwen2.5-VL call it "mrope" where nothing is scaled: `mrope_section` says all of that."""

    def spelled(self, given: Given) -> Mapping[str, Any]:
        return {name: "default" if value == "mrope" else value for name, value in super().spelled(given).items()}


class ScalingKey(Key):
    """A field that some types of scaling have; of the others the file says nothing."""

    def scaled(self, config: Any) -> bool:
        scaling, name = self.ours.split(".")
        return hasattr(lookup(config, join_path(self.section, scaling)), name)

    def expected(self, config: Any) -> Any:
        return super().expected(config) if self.scaled(config) else None

    def assumed(self, config: Any) -> Any:
        return super().assumed(config) if self.scaled(config) else None

    def read(self, given: Given) -> Mapping[str, Any]:
        return super().read(given) if self.spelled(given) else {}


class AxesKey(Key):
    """Of positions of three axes. The folder of a language model alone says nothing of them and fits all the same: text has one position
    on every axis. A whole model's table, whose class assumes something, has a key of its own."""

    def problem(self, given: Given, config: Any) -> str:
        return super().problem(given, config) if self.spelled(given) else ""


def rotary_keys() -> tuple[ConfigKey, ...]:
    """Rotary positions, as transformers writes them since version 5; before, their base stood alone and the rest in `rope_scaling`."""

    def scaling(name: str, default: Any = None, **more: Any) -> Key:
        return ScalingKey(f"rope_parameters.{name}", f"rotary_scaling.{name}", default, also=(f"rope_scaling.{name}",), **more)

    def mrope(name: str, default: Any = None) -> Key:
        return AxesKey(f"rope_parameters.mrope_{name}", f"mrope_{name}", default, also=(f"rope_scaling.mrope_{name}",), optional=True)

    return (
        Key("rope_parameters.rope_theta", "rotary_base", 10000.0, also=("rope_theta",)),
        RotaryType(
            "rope_parameters.rope_type",
            "rotary_scaling.type",
            "default",
            also=("rope_parameters.type", "rope_scaling.rope_type", "rope_scaling.type"),
            values={"default": None, "linear": "linear", "dynamic": "dynamic", "llama3": "llama3", "yarn": "yarn"},
        ),
        scaling("factor"),
        scaling("original_max_position_embeddings", lambda config: config.max_position_embeddings),
        scaling("low_freq_factor"),
        scaling("high_freq_factor"),
        scaling("beta_fast", 32.0, optional=True),
        scaling("beta_slow", 1.0, optional=True),
        scaling("truncate", True, optional=True),
        scaling("attention_factor"),
        scaling("mscale"),
        scaling("mscale_all_dim"),
        mrope("section"),
        mrope("interleaved", False),
    )


def one_group_a_head(config: DecoderConfig) -> int:
    return config.num_attention_heads


def share_of_a_head(config: DecoderConfig) -> int:
    return config.hidden_size // config.num_attention_heads


def decoder_keys(defaults: Mapping[str, Any], rotary: Iterable[ConfigKey] | None = None) -> tuple[ConfigKey, ...]:
    """Keys of the family; `defaults` is what its class assumes where a key is absent, `rotary` are its keys of rotary positions where
    they are not `rotary_keys`."""
    return (
        Key("num_hidden_layers", "num_layers", defaults["num_hidden_layers"]),
        Key("hidden_size", "hidden_size", defaults["hidden_size"]),
        Key("intermediate_size", "ffn_hidden_size", defaults["intermediate_size"]),
        Key("num_attention_heads", "num_attention_heads", defaults["num_attention_heads"]),
        Key("num_key_value_heads", "num_query_groups", defaults.get("num_key_value_heads", one_group_a_head), effective="groups"),
        Key("head_dim", "kv_channels", defaults.get("head_dim", share_of_a_head), effective="head_size", optional=True),
        Key("vocab_size", "vocab_size", defaults["vocab_size"]),
        Key("max_position_embeddings", "max_position_embeddings", defaults["max_position_embeddings"]),
        Key("rms_norm_eps", "layernorm_epsilon", 1e-6),
        Key("tie_word_embeddings", "untie_embeddings_and_output_weights", False, values={True: False, False: True}),
        *(rotary_keys() if rotary is None else rotary),
        Constant("hidden_act", "silu", "silu"),
        Constant("attention_dropout", 0.0, 0.0),
        GENERIC_KEYS,
    )
