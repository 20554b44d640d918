"""Experts computed together, as on a GPU, and one by one, as on a CPU, are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loongforge_llm.deepseek_v3.config import DeepseekV3Config
from loongforge_llm.qwen3_moe.config import Qwen3MoeConfig
from torch import Tensor

from loongforge_core.layers import experts
from loongforge_core.layers.grouped import can_be_grouped, grouped_linear
from loongforge_core.parallel.initialise import initialise
from loongforge_core.testing.reference import ours

SIZES = {"num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 24, "num_attention_heads": 2, "vocab_size": 50, "init_method_std": 0.3}
EXPERTS = {"num_moe_experts": 12, "moe_ffn_hidden_size": 12, "moe_router_topk": 2}
LATENT = {"kv_lora_rank": 8, "qk_head_dim": 6, "qk_pos_emb_head_dim": 4, "v_head_dim": 6, "moe_shared_expert_intermediate_size": 12}
GROUPS = {"moe_router_num_groups": 3, "moe_router_group_topk": 2}


@pytest.mark.parametrize("counts", [(4, 0, 7), (0, 0, 3), (0, 0, 0)])
def test_one_product_equals_one_by_one(counts: tuple[int, ...]) -> None:
    drawn = torch.Generator().manual_seed(1)
    tokens_ti = torch.randn(sum(counts), 16, generator=drawn, requires_grad=True)
    weights = [torch.randn(24, 16, generator=drawn, requires_grad=True) for _ in counts]
    together = grouped_linear(tokens_ti, torch.tensor(counts).cumsum(0).int(), weights)
    apart = torch.cat([tokens @ weight.t() for tokens, weight in zip(tokens_ti.split(counts), weights, strict=True)])
    torch.testing.assert_close(together, apart)
    for left, right in zip(*(torch.autograd.grad(out.square().sum(), [tokens_ti, *weights]) for out in (together, apart)), strict=True):
        torch.testing.assert_close(left, right)


def test_frozen_weights_get_no_gradient() -> None:
    tokens_ti, weights = torch.randn(3, 8, requires_grad=True), [torch.randn(4, 8), torch.randn(4, 8)]
    grouped_linear(tokens_ti, torch.tensor([1, 3], dtype=torch.int32), weights).sum().backward()
    torch.testing.assert_close(tokens_ti.grad, torch.stack([weights[index].sum(0) for index in (0, 1, 1)]))


def test_rows_that_are_not_aligned_stay_apart() -> None:
    aligned, odd = (torch.empty(8, width, dtype=torch.bfloat16, device="meta") for width in (16, 12))
    assert can_be_grouped(aligned, aligned) and not can_be_grouped(aligned, odd)
    assert not can_be_grouped(torch.empty(16, 16))  # on a CPU


@pytest.mark.parametrize("config", [Qwen3MoeConfig(**SIZES, **EXPERTS), DeepseekV3Config(**SIZES, **EXPERTS, **LATENT, **GROUPS)])
def test_a_decoder_computes_the_same(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    apart, unused = gradients(config)
    monkeypatch.setattr(experts, "can_be_grouped", lambda *weights: True)
    monkeypatch.setattr(experts.SequentialMLP, "forward", None)
    together, _ = gradients(config)
    assert unused and together.keys() == apart.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[name], msg=lambda said, name=name: f"{name}: {said}")


def gradients(config: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Of every parameter, zero where an expert has no token; and the names of those."""
    with ours(config) as built:
        initialise({"": built.target}, seed=3)
        ids_bs = torch.randint(50, (1, 5), generator=torch.Generator().manual_seed(1))
        embedded_sbh = built.model.embed(ids_bs)
        logits_bsv = built.model(embedded_sbh, torch.arange(5).unsqueeze(0), token_ids_bs=ids_bs)
        logits_bsv.square().sum().backward()
        found = {name: parameter.grad for name, parameter in built.model.named_parameters() if parameter.grad is not None}
        return found, [name for name, gradient in found.items() if "local_experts" in name and not gradient.any()]
