"""InternLM2, which transformers has no class of: parity with the published definition in plain torch, round trip, published sizes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from loongforge_llm.internlm2.config import InternLM2Config
from loongforge_llm.internlm2.weights import table
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from loongforge_core.config.check import composition_from
from loongforge_core.errors import ConfigError
from loongforge_core.registry import Registry
from loongforge_core.testing.parity import LENGTHS, check_language_model
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size, published_config
from loongforge_core.weights.config_keys import config_fields, config_problems

# ---- the published definition: names of modules are those on disk, keys of the config those of config.json


class Config(SimpleNamespace):
    """`InternLM2Config`, with its values for what is left out."""

    def __init__(self, **keys: Any) -> None:
        super().__init__(
            **{
                "bias": True,
                "rms_norm_eps": 1e-6,
                "rope_theta": 10000,
                "rope_scaling": None,
                "tie_word_embeddings": False,
                "max_position_embeddings": 2048,
                **keys,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        return vars(self)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        rows = (config.num_attention_heads + 2 * config.num_key_value_heads) * self.head_dim
        self.wqkv = nn.Linear(config.hidden_size, rows, bias=config.bias)
        self.wo = nn.Linear(config.num_attention_heads * self.head_dim, config.hidden_size, bias=config.bias)

    def forward(self, hidden_bsh: Tensor, rotation: tuple[Tensor, Tensor], visible_bss: Tensor) -> Tensor:
        queries = self.config.num_attention_heads // self.config.num_key_value_heads
        batch, length, _ = hidden_bsh.shape
        # For every group: its queries, its key, its value.
        qkv = self.wqkv(hidden_bsh).view(batch, length, self.config.num_key_value_heads, queries + 2, self.head_dim)
        query = turn(qkv[..., :queries, :].flatten(2, 3).transpose(1, 2), *rotation)
        key = turn(qkv[..., queries, :].transpose(1, 2), *rotation).repeat_interleave(queries, 1)
        value = qkv[..., queries + 1, :].transpose(1, 2).repeat_interleave(queries, 1)
        scores = query @ key.transpose(2, 3) / self.head_dim**0.5
        weights = scores.masked_fill(~visible_bss[:, None], float("-inf")).softmax(-1)
        return self.wo((weights @ value).transpose(1, 2).flatten(2))


def turn(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads.chunk(2, -1)
    return heads * cosine + torch.cat((-second, first), -1) * sine


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], visible_bss: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), rotation, visible_bss)
        return hidden + self.feed_forward(self.ffn_norm(hidden))


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)


class InternLM2ForCausalLM(nn.Module):
    all_tied_weights_keys = ()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Model(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def rotation(self, length: int) -> tuple[Tensor, Tensor]:
        config, positions = self.config, torch.arange(length).float()
        base, dim = config.rope_theta, config.hidden_size // config.num_attention_heads
        scaling = config.rope_scaling or {"type": "none"}
        if scaling["type"] == "linear":
            positions = positions / scaling["factor"]
        if scaling["type"] == "dynamic" and length > config.max_position_embeddings:
            ratio = scaling["factor"] * length / config.max_position_embeddings - (scaling["factor"] - 1)
            base = base * ratio ** (dim / (dim - 2))
        angles = torch.outer(positions, 1.0 / base ** (torch.arange(0, dim, 2).float() / dim)).repeat(1, 2)
        return angles.cos(), angles.sin()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        length = input_ids.shape[1]
        causal_ss = torch.ones(length, length, dtype=torch.bool).tril()
        visible_bss = causal_ss & attention_mask.bool()[:, None] | torch.eye(length, dtype=torch.bool)
        hidden = self.model.tok_embeddings(input_ids)
        for layer in self.model.layers:
            hidden = layer(hidden, self.rotation(length), visible_bss)
        return SimpleNamespace(logits=self.output(self.model.norm(hidden)))


# ---- ours

OURS: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 48,
    "ffn_hidden_size": 40,
    "num_attention_heads": 6,
    "num_query_groups": 2,
    "vocab_size": 99,
    "rotary_base": 100.0,
    "max_position_embeddings": 6,
}
THEIRS: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "bias": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "max_position_embeddings": 6,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one key for every query": {"num_query_groups": 6},
    "linear scaling": {"rotary_scaling": {"type": "linear", "factor": 2.0}},
    "dynamic scaling of a longer run": {"rotary_scaling": {"type": "dynamic", "factor": 2.0}},
}


def both(case: str) -> tuple[InternLM2Config, InternLM2ForCausalLM]:
    ours = CASES[case]
    theirs = {"rope_scaling": ours.get("rotary_scaling"), "num_key_value_heads": ours.get("num_query_groups", 2)}
    return InternLM2Config(**{**OURS, **ours}), InternLM2ForCausalLM(Config(**{**THEIRS, **theirs}))


@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, tmp_path: Path) -> None:
    check_language_model(*both(case), tmp_path, max_sequence_length=max(LENGTHS))


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, tmp_path: Path) -> None:
    check_round_trip(*both(case), tmp_path)


PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


def test_the_published_config_of_internlm2_5_7b() -> None:
    """Key by key, with what it says beside sizes; and a model with biases, which its class builds where nothing is said, is refused."""
    config = published_config("internlm2.5/internlm2_5_7b", Registry.discover(), {})
    assert isinstance(config, InternLM2Config)
    keys = table(config).keys
    given = {
        **PUBLISHED["internlm2_5_7b"]["kwargs"],
        "attn_implementation": "eager",
        "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
        "bias": False,
        "bos_token_id": 1,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    assert not config_problems(keys, given, config)
    assert InternLM2Config(**config_fields(keys, given)) == config
    del given["bias"]
    assert config_problems(keys, given, config) == ["bias is True in the file; only False is supported"]


ORIGINAL_FORMS = {
    "rotary_emb_func": "DynamicRotaryEmbedding",
    "rotary_base": 1000000,
    "model_spec": ["loongforge.models.foundation.internlm.internlm_layer_spec", "get_internlm_layer_with_te_spec"],
}


def test_the_original_designs_form_means_dynamic_scaling() -> None:
    foundation = {"type": "internlm2", **OURS, "rotary_scaling": {"type": "dynamic", "factor": 2.0}, **ORIGINAL_FORMS}
    composition = composition_from({"model": {"foundation": foundation}}, Registry.discover())
    config = InternLM2Config(**{**OURS, "rotary_base": 1e6, "rotary_scaling": {"type": "dynamic", "factor": 2.0}})
    assert composition.foundation == config
    foundation["rotary_scaling"] = {"type": "linear", "factor": 2.0}
    with pytest.raises(ConfigError, match="DynamicRotaryEmbedding means rotary_scaling"):
        composition_from({"model": {"foundation": foundation}}, Registry.discover())


def test_a_scaling_that_its_definition_does_not_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="'linear', 'dynamic'"):
        InternLM2Config(**OURS, rotary_scaling={"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 6})


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("internlm2")])
def test_published_size(name: str) -> None:
    figures = Config(**PUBLISHED[name]["kwargs"], bias=False)
    check_published_size(f"internlm2.5/{name}", InternLM2ForCausalLM, figures, parameters=PUBLISHED[name].get("parameters"))
