"""Decoders with experts and latent attention compute the same in every layout, with a router loss that is felt, padding and all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from loongforge_core.config.check import composition_from, layout_dependences
from loongforge_core.config.composition import Composition
from loongforge_core.config.layout.words import describe_layout
from loongforge_core.errors import ConfigError
from loongforge_core.layers import experts
from loongforge_core.model.batch import Batch
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry import Registry
from loongforge_core.testing.layouts import Layout, Measured, check_layouts, compare, measure, trainer_in

VOCABULARY = 101
TRAIN = {"lr": 1e-2, "steps": 3, "lr_warmup_steps": 1, "adam_eps": 1e-5}

QWEN3_MOE: Mapping[str, Any] = {
    "type": "qwen3_moe",
    "num_layers": 3,
    "hidden_size": 16,
    "ffn_hidden_size": 24,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 6,
    "vocab_size": VOCABULARY,
    "init_method_std": 0.2,
    "num_moe_experts": 4,
    "moe_ffn_hidden_size": 12,
    "moe_router_topk": 2,
    "moe_layer_freq": [1, 0, 1],
    "moe_aux_loss_coeff": 0.5,
}
DEEPSEEK_V2: Mapping[str, Any] = {
    "type": "deepseek_v2",
    "num_layers": 3,
    "hidden_size": 16,
    "ffn_hidden_size": 24,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "init_method_std": 0.2,
    "kv_lora_rank": 10,
    "qk_head_dim": 6,
    "qk_pos_emb_head_dim": 4,
    "v_head_dim": 8,
    "num_moe_experts": 4,
    "moe_ffn_hidden_size": 12,
    "moe_shared_expert_intermediate_size": 12,
    "moe_layer_freq": [0, 1, 1],
    "moe_router_topk": 2,
    "moe_aux_loss_coeff": 0.5,
    "rotary_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "mscale": 0.7, "mscale_all_dim": 0.9},
}
DEEPSEEK_V3: Mapping[str, Any] = {
    **DEEPSEEK_V2,
    "type": "deepseek_v3",
    "q_lora_rank": 12,
    "moe_router_num_groups": 2,
    "moe_router_group_topk": 1,
    "moe_router_bias_update_rate": 0.01,
    "mtp_num_layers": 1,
}


def language_model(foundation: Mapping[str, Any]) -> Composition:
    return composition_from({"model": {"foundation": dict(foundation)}, "train": TRAIN}, Registry.discover())


def micro_batch(seed: int, lengths: tuple[int, ...]) -> Batch:
    """Samples of so many tokens, two of three of them targets; behind the shorter ones is padding, which looks like tokens."""
    random = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    token_ids_bs = torch.randint(VOCABULARY, shape, generator=random)
    padding_bs = torch.arange(shape[1]) >= torch.tensor(lengths)[:, None]
    is_target_bs = ~padding_bs.roll(-1, 1) & ~padding_bs & (torch.arange(shape[1]) % 3 != 1)
    return Batch(
        token_ids_bs=token_ids_bs,
        labels_bs=token_ids_bs.roll(-1, 1),
        loss_mask_bs=is_target_bs.float(),
        position_ids=torch.arange(shape[1]).repeat(shape[0], 1),
        padding_mask_bs=padding_bs if padding_bs.any() else None,
    )


LENGTHS = ((5,), (9, 3), (12,), (7, 13))
STEPS = [[micro_batch(10 * step + index, lengths) for index, lengths in enumerate(LENGTHS)] for step in range(3)]

SEQUENCE = Layout(tensor=2, sequence_parallel=True)
STAGES = Layout(pipeline=2, first_stage=1, recompute="selective")
DATA = Layout(data=2, optimizer="overlapped")
ALL = Layout(tensor=2, pipeline=2, sequence_parallel=True, recompute="full", first_stage=2)

EXPERTS = Layout(data=2, expert=2)
EXPERTS_ON_TENSOR_RANKS = Layout(tensor=2, sequence_parallel=True, expert=2, expert_tensor=1)
TWO_COPIES = Layout(data=2, tensor=2, sequence_parallel=True, expert=2, expert_tensor=1, optimizer="distributed")
SPLIT_EXPERTS = Layout(data=2, tensor=2, sequence_parallel=True, expert=2, recompute="full")
EXPERTS_OF_STAGES = Layout(data=2, pipeline=2, expert=2, first_stage=1, optimizer="overlapped")


def test_qwen3_moe_is_the_same_in_every_layout() -> None:
    check_layouts(language_model(QWEN3_MOE), [SEQUENCE, STAGES, DATA, ALL], STEPS)


@pytest.mark.parametrize("foundation", [DEEPSEEK_V2, DEEPSEEK_V3], ids=lambda foundation: foundation["type"])
def test_deepseek_is_the_same_in_every_layout(foundation: Mapping[str, Any]) -> None:
    check_layouts(language_model(foundation), [SEQUENCE, STAGES], STEPS)


def test_ranks_share_experts() -> None:
    check_layouts(language_model(QWEN3_MOE), [EXPERTS, EXPERTS_ON_TENSOR_RANKS, TWO_COPIES, SPLIT_EXPERTS, EXPERTS_OF_STAGES], STEPS)


def measure_together(composition: Composition, layout: Layout, batches: Sequence[Sequence[Batch]]) -> Measured:
    """With experts computed together, as on a GPU; this process is a rank's own."""
    experts.can_be_grouped = lambda *weights: True
    return measure(composition, layout, batches)


@pytest.mark.parametrize("layout", [DATA, SPLIT_EXPERTS, EXPERTS_OF_STAGES], ids=str)
def test_experts_that_are_computed_together_are_the_same_in_every_layout(layout: Layout) -> None:
    """Among them one where weights arrive while the model runs: Megatron waits for those of a layer when the layer is called."""
    aligned = language_model({**QWEN3_MOE, "moe_ffn_hidden_size": 16})
    (one,) = run_ranks(measure, 1, aligned, Layout(), STEPS)
    compare(one, run_ranks(measure_together, layout.world_size, aligned, layout, STEPS), layout)


def test_ranks_share_experts_and_the_bias_that_balances_them() -> None:
    check_layouts(language_model(DEEPSEEK_V3), [EXPERTS, TWO_COPIES], STEPS)


def biases_after_a_step(composition: Composition, batches: Sequence[Batch]) -> dict[str, list[float]]:
    trainer = trainer_in(composition, Layout())
    trainer.step(batches)
    return {name: buffer.tolist() for name, buffer in trainer.models[0].named_buffers() if name.endswith("expert_bias")}


def test_a_frozen_router_keeps_its_bias() -> None:
    """As the one of the prediction layer does, which does not run."""
    frozen = language_model({**DEEPSEEK_V3, "freeze": ["decoder.layers.1.mlp.router.*"]})
    (biases,) = run_ranks(biases_after_a_step, 1, frozen, STEPS[0])
    moved = {name for name, bias in biases.items() if any(bias)}
    assert len(biases) == 3 and moved == {"foundation.decoder.layers.2.mlp.router.expert_bias"}


def test_a_step_without_targets_moves_no_bias() -> None:
    untargeted = [replace(batch, loss_mask_bs=torch.zeros_like(batch.loss_mask_bs)) for batch in STEPS[0]]
    (biases,) = run_ranks(biases_after_a_step, 1, language_model(DEEPSEEK_V3), untargeted)
    assert len(biases) == 3 and not any(map(any, biases.values()))


@pytest.mark.parametrize(
    "parallel, world_size, message",
    [
        ({"expert_model_parallel_size": 3}, 6, "num_moe_experts 4 does not divide by 3: 4 = 1 x 3 + 1; nearest valid: 2"),
        ({"expert_model_parallel_size": 4}, 6, "expert_model_parallel_size 4 = 4 processes, and the world size 6 is no multiple of 4"),
        (
            {"tensor_model_parallel_size": 2},
            2,
            "has experts, which on tensor ranks take sequences that are split",
        ),
        (
            {"tensor_model_parallel_size": 2, "sequence_parallel": True, "expert_tensor_parallel_size": 1},
            2,
            "got 1, but experts that no ranks share are split as everything else, over 2; nearest valid: 2",
        ),
        (
            {"expert_model_parallel_size": 2, "expert_tensor_parallel_size": 5},
            10,
            "moe_ffn_hidden_size 12 does not divide by 5: 12 = 2 x 5 + 2; nearest valid: ",
        ),
    ],
)
def test_a_layout_that_experts_do_not_fit_is_refused(parallel: Mapping[str, Any], world_size: int, message: str) -> None:
    tree = {"model": {"foundation": dict(QWEN3_MOE)}, "parallel": dict(parallel), "train": {"global_batch_size": 60}}
    with pytest.raises(ConfigError) as raised:
        composition_from(tree, Registry.discover(), world_size=world_size)
    assert message in str(raised.value)


def test_a_layout_of_experts_in_words() -> None:
    parallel = {"tensor_model_parallel_size": 2, "sequence_parallel": True, "expert_model_parallel_size": 2}
    tree = {"model": {"foundation": dict(QWEN3_MOE)}, "parallel": parallel}
    composition = composition_from(tree, Registry.discover(), world_size=4)
    assert "  experts: shared by 2 ranks, each split over 2 tensor ranks" in list(describe_layout(composition, 4))


def test_a_router_loss_over_micro_batches_is_said_to_depend_on_them() -> None:
    assert not layout_dependences(language_model(QWEN3_MOE))
    (issue,) = layout_dependences(language_model({**QWEN3_MOE, "moe_router_load_balancing_type": "aux_loss"}))
    assert issue.key == "model.foundation" and "aux_loss balances experts over each micro-batch" in issue.message
    assert not layout_dependences(language_model({**QWEN3_MOE, "moe_router_load_balancing_type": "none"}))
