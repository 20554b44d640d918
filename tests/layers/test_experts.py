"""The router's loss: its numbers, written out here in plain torch, and that company, padding and packing of a sequence change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from loongforge_llm.deepseek_v3.config import DeepseekV3Config
from loongforge_llm.qwen3_moe.config import Qwen3MoeConfig
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from torch import Tensor

from loongforge_core.layers.expert_config import ExpertDecoderConfig
from loongforge_core.layers.experts import SequenceRouter, sequence_members
from loongforge_core.layers.packing import packed_row
from loongforge_core.parallel.initialise import initialise
from loongforge_core.testing.reference import ours
from loongforge_core.testing.waiting import META, never_waiting


@pytest.fixture(autouse=True)
def unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron's schedules leave a scale of the router's loss behind, in whatever test of this process came before."""
    monkeypatch.setattr(MoEAuxLossAutoScaler, "main_loss_backward_scale", None)


VOCABULARY, EXPERTS, CHOICES = 50, 6, 2
SIZES: Mapping[str, Any] = {
    "num_layers": 2,
    "hidden_size": 16,
    "ffn_hidden_size": 24,
    "num_attention_heads": 2,
    "vocab_size": VOCABULARY,
    "init_method_std": 0.3,
    "num_moe_experts": EXPERTS,
    "moe_ffn_hidden_size": 12,
    "moe_router_topk": CHOICES,
}
LATENT: Mapping[str, Any] = {
    "kv_lora_rank": 8,
    "qk_head_dim": 6,
    "qk_pos_emb_head_dim": 4,
    "v_head_dim": 6,
    "moe_shared_expert_intermediate_size": 12,
    "moe_router_num_groups": 1,
    "moe_router_group_topk": 1,
}
COEFFICIENT = 0.7
LENGTHS = (7, 4, 9, 5)
SAMPLES = [torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(length)) for length in LENGTHS]


def softmax_config(**fields: Any) -> Qwen3MoeConfig:
    return Qwen3MoeConfig(**SIZES, **{"moe_aux_loss_coeff": COEFFICIENT, **fields})


def sigmoid_config(**fields: Any) -> DeepseekV3Config:
    return DeepseekV3Config(**SIZES, **LATENT, **{"moe_aux_loss_coeff": COEFFICIENT, **fields})


def alone(model: Any, samples: Sequence[Tensor]) -> None:
    for sample in samples:
        run(model, sample[None], torch.arange(len(sample))[None])


def in_one_batch(model: Any, samples: Sequence[Tensor]) -> None:
    """Padded by tokens that are real ones elsewhere."""
    ids_bs = torch.nn.utils.rnn.pad_sequence(list(samples), batch_first=True, padding_value=3)
    is_padding_bs = torch.arange(ids_bs.shape[1]) >= torch.tensor([len(sample) for sample in samples])[:, None]
    run(model, ids_bs, torch.arange(ids_bs.shape[1]).expand_as(ids_bs), padding_mask_bs=is_padding_bs)


def in_one_row(model: Any, samples: Sequence[Tensor]) -> None:
    positions = torch.cat([torch.arange(len(sample)) for sample in samples])
    run(model, torch.cat(list(samples))[None], positions[None], packed=packed_row([len(sample) for sample in samples]))


def run(model: Any, ids_bs: Tensor, position_ids: Tensor, padding_mask_bs: Tensor | None = None, packed: Any = None) -> None:
    """Backward of the loss of all tokens that are none of the padding."""
    is_token_bs = torch.ones_like(ids_bs, dtype=torch.bool) if padding_mask_bs is None else ~padding_mask_bs
    losses_bs = model(
        model.embed(ids_bs), position_ids, token_ids_bs=ids_bs, labels_bs=ids_bs, padding_mask_bs=padding_mask_bs, packed=packed
    )
    (losses_bs * is_token_bs).sum().backward()


def gradients(config: ExpertDecoderConfig, feed: Any) -> dict[str, Tensor]:
    with ours(config) as built:
        initialise({"foundation": built.model}, seed=1)
        feed(built.model, SAMPLES)
        return {name: parameter.grad.clone() for name, parameter in built.model.named_parameters()}


def worst_difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    return max(float((left[name] - right[name]).abs().max() / right[name].abs().max().clamp(min=1e-3)) for name in right)


@pytest.mark.parametrize("config", [softmax_config(), sigmoid_config()], ids=["softmax", "sigmoid"])
def test_a_sequence_counts_the_same_in_any_company(config: ExpertDecoderConfig) -> None:
    one_by_one = gradients(config, alone)
    assert worst_difference(gradients(config, in_one_batch), one_by_one) < 1e-5
    assert worst_difference(gradients(config, in_one_row), one_by_one) < 1e-5


def test_a_loss_over_the_micro_batch_depends_on_it() -> None:
    """What the other test would see if sequences were not told apart."""
    config = softmax_config(moe_router_load_balancing_type="aux_loss")
    assert worst_difference(gradients(config, in_one_batch), gradients(config, alone)) > 1e-3


@pytest.mark.parametrize("make", [softmax_config, sigmoid_config])
@pytest.mark.parametrize("kind", ["seq_aux_loss", "aux_loss"])
def test_the_numbers_are_the_formula_s(make: Any, kind: str) -> None:
    """Coefficient x experts x sum over experts of (share of the choices) x (mean share of the scores), for every token of a sequence."""
    seen: list[tuple[Tensor, Tensor]] = []
    with ours(make(moe_router_load_balancing_type=kind)) as built:
        initialise({"foundation": built.model}, seed=1)
        routers = [module for module in built.model.modules() if isinstance(module, SequenceRouter)]
        routers[-1].register_forward_pre_hook(lambda router, inputs: seen.append(inputs[0].detach()))
        in_one_batch(built.model, SAMPLES)
        weight, gradient = routers[-1].weight.detach().clone(), routers[-1].weight.grad.clone()
    plain = gradients(make(moe_router_load_balancing_type="none"), in_one_batch)
    added = gradient - plain[f"decoder.layers.{SIZES['num_layers'] - 1}.mlp.router.weight"]
    weight.requires_grad_()
    sequences = [seen[0][:length, row] for row, length in enumerate(LENGTHS)]
    for hidden_th in sequences if kind == "seq_aux_loss" else [torch.cat(sequences)]:
        logits_te = hidden_th @ weight.t()
        scores_te = logits_te.softmax(-1) if make is softmax_config else logits_te.sigmoid() / logits_te.sigmoid().sum(-1, keepdim=True)
        counts_e = torch.bincount(logits_te.topk(CHOICES).indices.flatten(), minlength=EXPERTS)
        loss = EXPERTS * (counts_e / (CHOICES * len(hidden_th)) * scores_te.mean(0)).sum()
        (COEFFICIENT * loss * len(hidden_th)).backward()
    torch.testing.assert_close(added, weight.grad, rtol=1e-4, atol=1e-4)
    assert added.abs().max() > 0.1


def test_without_training_there_is_no_router_loss() -> None:
    with ours(softmax_config()) as built:
        initialise({"foundation": built.model}, seed=1)
        built.model.eval()
        in_one_batch(built.model, SAMPLES)
        evaluated = {name: parameter.grad for name, parameter in built.model.named_parameters()}
    plain = gradients(softmax_config(moe_router_load_balancing_type="none"), in_one_batch)
    assert worst_difference(evaluated, plain) < 1e-6


def test_a_frozen_router_balances_nothing() -> None:
    """Not by what is in front of it either."""
    with ours(softmax_config()) as built:
        initialise({"foundation": built.model}, seed=1)
        for name, parameter in built.model.named_parameters():
            parameter.requires_grad_(not name.endswith("router.weight"))
        in_one_batch(built.model, SAMPLES)
        trained = {name: parameter.grad for name, parameter in built.model.named_parameters() if parameter.requires_grad}
    plain = gradients(softmax_config(moe_router_load_balancing_type="none"), in_one_batch)
    assert len(plain) == len(trained) + SIZES["num_layers"]
    assert worst_difference(plain, trained) < 1e-6


def test_members_of_a_padded_packed_row() -> None:
    ids = torch.zeros(1, 6, dtype=torch.int64)
    padding = torch.tensor([[False] * 5 + [True]])
    members = sequence_members(ids, padding, packed_row([2, 3], total=6), together=False)
    assert members.int().tolist() == [[[1, 1, 0, 0, 0, 0]], [[0, 0, 1, 1, 1, 0]], [[0, 0, 0, 0, 0, 0]]]


def test_the_bias_of_an_expert_counts_tokens_but_no_padding() -> None:
    with ours(sigmoid_config()) as built:
        initialise({"foundation": built.model}, seed=1)
        in_one_batch(built.model, SAMPLES)
        routers = [module for module in built.model.modules() if isinstance(module, SequenceRouter)]
        assert [float(router.local_tokens_per_expert.sum()) for router in routers] == [CHOICES * sum(LENGTHS)] * SIZES["num_layers"]


@pytest.mark.parametrize("config", [softmax_config(), sigmoid_config()], ids=["softmax", "sigmoid"])
def test_a_router_waits_for_no_device(config: ExpertDecoderConfig) -> None:
    """Megatron's dispatcher behind it does, once a layer: it asks how many tokens each expert gets."""
    with ours(config, device=META) as built:
        router = next(module for module in built.model.modules() if isinstance(module, SequenceRouter)).to(META)
        ids, padding = torch.empty(1, 8, dtype=torch.int64, device=META), torch.empty(1, 8, dtype=torch.bool, device=META)
        with never_waiting():
            router.sequences = sequence_members(ids, padding, packed_row([3, 4], total=8, device=META), together=False)
            weights, _ = router.routing(torch.empty(8, 1, EXPERTS, device=META, requires_grad=True))
            weights.sum().backward()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"moe_layer_freq": [1, 0, 1]}, "3 layers, num_layers is 2"),
        ({"moe_layer_freq": [0, 0]}, "no layer with experts"),
        ({"moe_router_topk": 7}, "more than the 6 experts"),
        ({"moe_router_topk": 1}, "would have no gradient"),
    ],
)
def test_impossible_experts_are_refused(fields: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Qwen3MoeConfig(**{**SIZES, **fields})


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"moe_router_num_groups": 4, "moe_router_group_topk": 1}, "equal groups"),
        ({"moe_router_num_groups": 6, "moe_router_group_topk": 3}, "no two each"),
        ({"moe_router_num_groups": 3, "moe_router_group_topk": 1, "moe_router_topk": 3}, "more than the 2 experts"),
    ],
)
def test_impossible_groups_are_refused(fields: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepseekV3Config(**{**SIZES, **LATENT, **fields})
