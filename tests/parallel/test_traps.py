"""Numbers that Megatron-Core gets wrong without a word: right with the repair, or in our own modules.

Shapes: s sequence, b batch, h width, t tokens of a packed row, n heads, d head width.
"""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.common.embeddings.rotary_pos_embedding import MultimodalRotaryEmbedding, apply_rotary_pos_emb
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.post_training.modelopt.layers import Linear
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import MLATransformerConfig, ModuleSpec, TransformerConfig, multi_latent_attention
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.spec_utils import build_module
from torch import Tensor

from loongforge_core.layers.attention import ScaledDotProductAttention
from loongforge_core.layers.norms import RMSNorm
from loongforge_core.layers.rotary import RotaryAngles, rotate
from loongforge_core.parallel.launch import run_ranks

# ---- latent attention over tensor ranks -------------------------------------------------------------------------------

LENGTH, BATCH, WIDTH = 8, 2, 32


@dataclass(frozen=True)
class Latent:
    """What differs between the layers that are tried."""

    q_lora_rank: int | None = 16
    whole_down_projections: bool = False
    """Every rank has the projections to the latent states whole, as with transformer-engine, and not a part of their output."""
    recompute: bool = False


@dataclass(frozen=True)
class Part:
    """A gradient on one rank; `axis` is cut over the ranks, or the gradient is whole on each."""

    gradient: Tensor
    axis: int | None


def latent_config(latent: Latent, size: int, sequence_parallel: bool) -> MLATransformerConfig:
    return MLATransformerConfig(
        num_layers=1,
        hidden_size=WIDTH,
        ffn_hidden_size=48,
        num_attention_heads=4,
        q_lora_rank=latent.q_lora_rank,
        kv_lora_rank=20,
        qk_head_dim=8,
        qk_pos_emb_head_dim=4,
        v_head_dim=6,
        rope_type="rope",
        normalization="RMSNorm",
        qk_layernorm=latent.q_lora_rank is not None,  # without, 0.19 wants the norm in a part of transformer-engine's
        transformer_impl="local",
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        bias_dropout_fusion=False,
        tensor_model_parallel_size=size,
        sequence_parallel=sequence_parallel,
        **({"recompute_granularity": "selective", "recompute_modules": ["mla_up_proj"]} if latent.recompute else {}),
    )


def latent_spec(latent: Latent, config: MLATransformerConfig) -> ModuleSpec:
    """Megatron's, with our norms, which know sequence parallelism, and our attention, which takes values narrower than the keys."""
    spec = get_gpt_layer_local_spec(multi_latent_attention=True, qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = RMSNorm
    attention = spec.submodules.self_attention.submodules
    attention.core_attention = ScaledDotProductAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.kv_layernorm = RMSNorm
    if latent.whole_down_projections:
        multi_latent_attention.Linear = Linear  # imported there with transformer-engine only; this process is the test's own
        attention.linear_q_down_proj = attention.linear_kv_down_proj = Linear
    return spec


def fixed(name: str, *shape: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def part(whole: Tensor, axis: int | None, group: Any) -> Tensor:
    return whole if axis is None else whole.chunk(group.size(), axis)[group.rank()]


def cut_axis(parameter: Tensor, group: Any) -> int | None:
    cut = group.size() > 1 and getattr(parameter, "tensor_model_parallel", False)
    return parameter.partition_dim if cut else None  # type: ignore[attr-defined]


def fill(parameter: Tensor, name: str, group: Any) -> None:
    axis, shape = cut_axis(parameter, group), list(parameter.shape)
    if axis is not None:
        shape[axis] *= group.size()
    is_norm = len(shape) == 1
    parameter.data.copy_(part(0.3 * fixed(name, *shape) + is_norm, axis, group))


def latent_gradients(latent: Latent, size: int, sequence_parallel: bool) -> dict[str, Part]:
    """Of a sum of a layer's output, with respect to its input and all parameters, as Megatron's optimizer would see them.

    All ranks are the job's tensor ranks; where `size` is one, each has the layer in a group of its own.
    """
    world_size = torch.distributed.get_world_size()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=world_size)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    groups = ProcessGroupCollection.use_mpu_process_groups()
    if size == 1:
        groups.tp = [torch.distributed.new_group([rank]) for rank in range(world_size)][torch.distributed.get_rank()]
    config = latent_config(latent, size, sequence_parallel)
    layer = build_module(latent_spec(latent, config), config=config, layer_number=1, pg_collection=groups)
    for name, parameter in layer.named_parameters():
        fill(parameter, name, groups.tp)
    model = DistributedDataParallel(config, DistributedDataParallelConfig(overlap_grad_reduce=False), layer)
    axis = 0 if sequence_parallel else None
    input_sbh, factors_sbh = (part(fixed(name, LENGTH, BATCH, WIDTH), axis, groups.tp) for name in ("input", "factors"))
    input_sbh = input_sbh.clone().requires_grad_()
    output_sbh, _ = model(input_sbh, attention_mask=None)
    (output_sbh * factors_sbh).sum().backward()
    finalize_model_grads([model])
    assert input_sbh.grad is not None
    parts = {name: Part(each.main_grad.clone(), cut_axis(each, groups.tp)) for name, each in layer.named_parameters()}
    return {**parts, "input": Part(input_sbh.grad, axis)}


def wrong_gradients(one: dict[str, Part], ranks: list[dict[str, Part]]) -> dict[str, float]:
    """Differences from one process's, relative to the largest value; a gradient that is not cut has to be right on every rank."""
    found = {}
    for name, whole in one.items():
        parts, axis = [rank[name].gradient for rank in ranks], ranks[0][name].axis
        candidates = parts if axis is None else [torch.cat(parts, axis)]
        found[name] = max(float((each - whole.gradient).abs().max() / whole.gradient.abs().max()) for each in candidates)
    # Sums are taken in another order: a few units in the last place of float32.
    return {name: difference for name, difference in found.items() if not difference < 1e-5}


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["tp2", "tp2-sp"])
@pytest.mark.parametrize(
    "latent",
    [Latent(), Latent(q_lora_rank=None), Latent(recompute=True), Latent(whole_down_projections=True)],
    ids=["latent-queries", "queries", "recomputed", "whole-down-projections"],
)
def test_gradients_of_latent_attention_on_two_tensor_ranks_are_those_of_one(latent: Latent, sequence_parallel: bool) -> None:
    """Of the rotary key that all heads share, above all, and of the norm of the latent queries."""
    (one,) = run_ranks(latent_gradients, 1, latent, 1, False)
    ranks = run_ranks(latent_gradients, 2, latent, 2, sequence_parallel)
    assert not wrong_gradients(one, ranks)


def test_latent_attention_in_groups_of_its_own_sums_nothing_over_the_jobs_tensor_ranks() -> None:
    (one,) = run_ranks(latent_gradients, 1, Latent(), 1, False)
    assert not wrong_gradients(one, run_ranks(latent_gradients, 2, Latent(), 1, False))


# ---- M-RoPE in packed rows over context-parallel ranks ----------------------------------------------------------------

RANKS, LENGTHS = 2, (8, 12, 8)
HEADS, HEAD_SIZE, SECTIONS = 2, 16, [2, 3, 3]


def positions() -> Tensor:
    """`[3, 1, t]`: in each sequence text, then an item of two rows, then text, so that the three axes of a position differ."""
    sequences = []
    for length in LENGTHS:
        time, row, column = torch.arange(length).repeat(3, 1)
        time[2:6], row[2:6], column[2:6] = 2, torch.tensor([2, 2, 3, 3]), torch.tensor([2, 3, 2, 3])
        sequences.append(torch.stack((time, row, column)))
    return torch.cat(sequences, dim=1)[:, None]


def tokens_of(rank: int) -> Tensor:
    """Which of the packed row's tokens a rank has: of each sequence, cut into four, the first and last piece or those between."""
    sequences = torch.arange(sum(LENGTHS)).split(LENGTHS)  # type: ignore[no-untyped-call]
    pieces = [sequence.chunk(2 * RANKS) for sequence in sequences]
    return torch.cat([torch.cat((each[rank], each[-1 - rank])) for each in pieces])


def turned_by_megatron(heads_tnd: Tensor, positions: Tensor, packed: PackedSeqParams | None, embedding_group: Any) -> Tensor:
    """As its GPTModel and its attention turn heads. GPTModel hands `packed.cp_group` to the embedding; transformer-engine's attention takes
    that for its own group as well, so whoever uses both gives `embedding_group` to the embedding alone."""
    config = TransformerConfig(num_layers=1, hidden_size=HEADS * HEAD_SIZE, num_attention_heads=HEADS, mrope_section=SECTIONS)
    embedding = MultimodalRotaryEmbedding(HEAD_SIZE, rotary_percent=1.0)(positions, SECTIONS, cp_group=embedding_group)
    if packed is None:
        return apply_rotary_pos_emb(heads_tnd[:, None], embedding, config)[:, 0]
    group = parallel_state.get_context_parallel_group()
    return apply_rotary_pos_emb(heads_tnd, embedding, config, cu_seqlens=packed.cu_seqlens_q, cp_group=group)


@dataclass(frozen=True)
class Turned:
    """One rank's tokens."""

    alone: Tensor
    """As parts of their sequences, each turned by itself on one process."""
    packed: Tensor
    with_whole_embedding: Tensor
    by_token: Tensor
    """By our own module, from the rank's own positions."""


def turned() -> Turned:
    parallel_state.initialize_model_parallel(context_parallel_size=RANKS)
    rank = parallel_state.get_context_parallel_rank()
    this_rank = [torch.distributed.new_group([each]) for each in range(RANKS)][rank]
    heads_tnd, everywhere = fixed("heads", sum(LENGTHS), HEADS, HEAD_SIZE), positions()
    sequences = zip(heads_tnd.split(LENGTHS), everywhere.split(LENGTHS, dim=-1), strict=True)  # type: ignore[no-untyped-call]
    alone = torch.cat([turned_by_megatron(heads, where, None, this_rank) for heads, where in sequences])
    tokens = tokens_of(rank)
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=torch.tensor((0, *LENGTHS)).cumsum(0).int())
    rotation = RotaryAngles(HEAD_SIZE, 10000.0, mrope_section=SECTIONS)(everywhere[:, :, tokens], torch.float32)
    return Turned(
        alone=alone[tokens],
        packed=turned_by_megatron(heads_tnd[tokens], everywhere, packed, packed.cp_group),
        with_whole_embedding=turned_by_megatron(heads_tnd[tokens], everywhere, packed, this_rank),
        by_token=rotate(heads_tnd[tokens][:, None], rotation)[:, 0],
    )


def test_mrope_of_packed_rows_on_context_parallel_ranks_is_each_sequences_own() -> None:
    """In Megatron if attention gets the embedding whole: cut along the row, as it is by default, it counts as one of the longest sequence.
    (A sequence longer than a rank's part of the row would be an error; here none is.) In ours always."""
    knows_packing = "packed_seq" in inspect.signature(MultimodalRotaryEmbedding.forward).parameters  # as RotaryEmbedding's does
    for rank in run_ranks(turned, RANKS):
        torch.testing.assert_close(rank.with_whole_embedding, rank.alone, rtol=0, atol=1e-6)
        torch.testing.assert_close(rank.by_token, rank.alone, rtol=0, atol=1e-6)
        assert knows_packing or (rank.packed - rank.alone).abs().max() > 1


# ---- the scale of routers' losses -----------------------------------------------------------------------------------


def test_a_schedule_sets_the_scale_of_routers_losses_whatever_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a gradient that somebody looked at in a notebook."""
    monkeypatch.setattr(MoEAuxLossAutoScaler, "main_loss_backward_scale", None)

    def gradient() -> float:
        loss = torch.ones(1, requires_grad=True)
        MoEAuxLossAutoScaler.apply(torch.ones(1, requires_grad=True), loss).sum().backward()
        assert loss.grad is not None
        return loss.grad.item()

    assert gradient() == 1.0  # without a schedule
    for scale in (3.0, 0.25):
        MoEAuxLossAutoScaler.set_loss_scale(torch.full((1,), scale))
        assert gradient() == scale
