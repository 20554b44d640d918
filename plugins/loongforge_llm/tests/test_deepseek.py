"""DeepSeek-V2, V2-Lite and V3: parity with transformers, round trip with and without prediction layers, published sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loongforge_llm.deepseek_v2.config import DeepseekV2Config
from loongforge_llm.deepseek_v3.config import DeepseekV3Config
from torch import nn
from transformers.models.deepseek_v2.modeling_deepseek_v2 import apply_rotary_emb
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RMSNorm

from loongforge_core.errors import WeightsError
from loongforge_core.layers.expert_config import ExpertDecoderConfig
from loongforge_core.testing.parity import check_language_model
from loongforge_core.testing.reference import ours as build
from loongforge_core.testing.reference import redraw
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size
from loongforge_core.weights.export_hf import export_component
from loongforge_core.weights.import_hf import import_hf

OURS: dict[str, Any] = {
    "num_layers": 3,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "kv_lora_rank": 20,
    "qk_head_dim": 10,
    "qk_pos_emb_head_dim": 6,
    "v_head_dim": 8,
    "num_moe_experts": 8,
    "moe_ffn_hidden_size": 20,
    "moe_layer_freq": [0, 1, 1],
    "moe_shared_expert_intermediate_size": 40,
    "moe_router_topk": 3,
}
THEIRS: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 99,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "moe_intermediate_size": 20,
    "first_k_dense_replace": 1,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 32768,
}
# The context is short, so that a few positions see every branch of the scaling; both factors of its sharpness differ from one.
YARN = {"factor": 8.0, "original_max_position_embeddings": 16, "beta_fast": 8.0, "mscale": 0.7, "mscale_all_dim": 0.9}

V2: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lite": ({}, {"q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1}),
    "groups and scaling": (
        {
            "q_lora_rank": 14,
            "moe_router_num_groups": 4,
            "moe_router_group_topk": 2,
            "moe_router_topk_scaling_factor": 16.0,
            "rotary_scaling": {"type": "yarn", **YARN},
        },
        {
            "q_lora_rank": 14,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 16.0,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **YARN},
        },
    ),
}
V3: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "groups, bias and scaling": (
        {"q_lora_rank": 14, "moe_router_num_groups": 4, "moe_router_group_topk": 2, "rotary_scaling": {"type": "yarn", **YARN}},
        {"q_lora_rank": 14, "n_group": 4, "topk_group": 2, "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **YARN}},
    ),
    "one group, plain queries": (
        {"moe_router_num_groups": 1, "moe_router_group_topk": 1, "moe_router_topk_scaling_factor": 1.5},
        {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.5},
    ),
}


class DeepseekV3ForCausalLM(transformers.DeepseekV3ForCausalLM):
    """The published tensors of multi-token prediction, which transformers leaves out: a layer of the usual kind, and what it joins."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for number in range(config.num_nextn_predict_layers):
            layer = DeepseekV3DecoderLayer(config, config.num_hidden_layers + number)
            layer.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
            layer.enorm, layer.hnorm = (DeepseekV3RMSNorm(config.hidden_size) for _ in range(2))
            layer.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
            head = {"norm": DeepseekV3RMSNorm(config.hidden_size), "head": nn.Linear(config.hidden_size, config.vocab_size, bias=False)}
            layer.shared_head = nn.ModuleDict(head)
            self.model.layers.append(layer)


def both(case: str) -> tuple[ExpertDecoderConfig, transformers.PreTrainedModel]:
    """Without prediction layers."""
    if case in V2:
        ours, theirs = V2[case]
        return DeepseekV2Config(**OURS, **ours), transformers.DeepseekV2ForCausalLM(transformers.DeepseekV2Config(**{**THEIRS, **theirs}))
    ours, theirs = V3[case]
    config = transformers.DeepseekV3Config(**{**THEIRS, **theirs}, num_nextn_predict_layers=0)
    return DeepseekV3Config(**OURS, **ours), transformers.DeepseekV3ForCausalLM(config)


def without_router_loss(config: ExpertDecoderConfig) -> ExpertDecoderConfig:
    return config.model_copy(update={"moe_router_load_balancing_type": "none"})


@pytest.mark.parametrize("case", [*V2, *V3])
def test_parity(case: str, tmp_path: Path) -> None:
    config, reference = both(case)
    check_language_model(without_router_loss(config), reference, tmp_path)


@pytest.mark.parametrize("case", [*V2, *V3])
def test_round_trip(case: str, tmp_path: Path) -> None:
    check_round_trip(*both(case), tmp_path)


def test_in_bfloat16_heads_are_turned_in_float32() -> None:
    """As the reference turns them, and rounded once."""
    config, reference = both("lite")
    positions = torch.arange(2000, 2016)[None]
    with build(config, dtype=torch.bfloat16) as built:
        redraw(built.model)
        attention = built.model.decoder.layers[0].self_attention
        turned: list[torch.Tensor] = []
        heads = torch.randn(16, 1, 4, config.head_size, generator=torch.Generator().manual_seed(0)).bfloat16()
        attention.core_attention.register_forward_pre_hook(lambda *_: turned.append(attention.turn(heads)))
        ids = torch.zeros_like(positions)
        built.model(built.model.embed(ids), positions, token_ids_bs=ids)
    frequencies = reference.model.rotary_emb(torch.zeros(1), positions)
    expected, _ = apply_rotary_emb(heads.permute(1, 2, 0, 3), heads.permute(1, 2, 0, 3), frequencies)
    halves = expected.permute(2, 0, 1, 3).unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    assert turned[0].dtype == torch.bfloat16
    assert (turned[0] != halves).float().mean() < 0.01


def test_prediction_layers_are_carried(tmp_path: Path) -> None:
    """They come and go with the others, change no logit and get no gradient."""
    ours, theirs = V3["groups, bias and scaling"]
    config = DeepseekV3Config(**OURS, **ours, mtp_num_layers=2)
    published = transformers.DeepseekV3Config(**{**THEIRS, **theirs}, num_nextn_predict_layers=2)
    check_round_trip(config, DeepseekV3ForCausalLM(published), tmp_path / "round trip")
    check_language_model(without_router_loss(config), DeepseekV3ForCausalLM(published), tmp_path / "parity")


def test_a_folder_that_transformers_has_written_states_layers_that_are_not_there(tmp_path: Path) -> None:
    """Where they are there, a model without them does not take the folder."""
    ours, theirs = V3["groups, bias and scaling"]
    for folder, model in {"without": transformers.DeepseekV3ForCausalLM, "with": DeepseekV3ForCausalLM}.items():
        published = transformers.DeepseekV3Config(**{**THEIRS, **theirs}, num_nextn_predict_layers=1)
        model(published).save_pretrained(tmp_path / folder)
    with build(DeepseekV3Config(**OURS, **ours)) as built:
        import_hf(tmp_path / "without", built.target, built.table, built.config)
        with pytest.raises(WeightsError, match=r"model\.layers\.3\.enorm"):
            import_hf(tmp_path / "with", built.target, built.table, built.config)


def test_a_model_in_bfloat16_comes_back_in_bfloat16(tmp_path: Path) -> None:
    """Its biases are float32, and no reason to load the rest in twice the memory."""
    config, reference = both("groups, bias and scaling")
    with build(config, dtype=torch.bfloat16) as built:
        redraw(built.model)
        export_component(tmp_path, built.target, built.table, config)
    loaded = type(reference).from_pretrained(tmp_path)
    dtypes = {name.endswith("e_score_correction_bias"): tensor.dtype for name, tensor in loaded.state_dict().items()}
    assert dtypes == {False: torch.bfloat16, True: torch.float32}


def test_what_the_published_classes_cannot_express_is_refused() -> None:
    wrong = {"layernorm_epsilon": 1e-5, "moe_layer_freq": [1, 0, 1], "moe_shared_expert_intermediate_size": 30}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            DeepseekV2Config(**{**OURS, name: value})


PUBLISHED = json.loads((Path(__file__).parent / "published_experts.json").read_text())


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v2_lite"])
def test_published_size(name: str) -> None:
    """One layer is dense, and all others are alike."""
    figures, model_class = transformers.DeepseekV2Config(**PUBLISHED[name]["kwargs"]), transformers.DeepseekV2ForCausalLM
    check_published_size(f"deepseek2/{name}", model_class, figures, parameters=PUBLISHED[name]["parameters"], layers=2)


def test_published_size_of_v3_with_its_prediction_layer() -> None:
    """transformers counts 671 billion without that layer; the model card has 14 billion for it, copies of both vocabularies included."""
    figures = transformers.DeepseekV3Config(**PUBLISHED["deepseek_v3"]["kwargs"], num_nextn_predict_layers=1)
    with torch.device("meta"):
        layer = DeepseekV3ForCausalLM(figures).model.layers[61]
    more = sum(parameter.numel() for parameter in layer.parameters())
    assert 13.4e9 < more < 13.6e9
    check_published_size(
        "deepseek3/deepseek_v3", DeepseekV3ForCausalLM, figures, parameters=PUBLISHED["deepseek_v3"]["parameters"] + more, layers=4
    )
