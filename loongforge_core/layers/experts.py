"""Mixtures of experts: the router, and the experts under their numbers in the whole layer. The rest is Megatron's MoELayer.

Shazeer et al. 2017, arXiv:1701.06538; group-limited routing: DeepSeek-V2, arXiv:2405.04434; the bias: Wang et al. 2024, arXiv:2408.15664.

The router's loss is E / K * sum over experts of (share of the choices) * (mean score), of each sequence by itself, and like that of the
model a sum over tokens: a sequence's value times the number of its tokens. Megatron divides both by the target tokens of the global batch.
So neither the size of a micro-batch, nor the layout, nor the company in which a sequence is packed or padded changes it. (Megatron's own
`seq_aux_loss` is the mean over a micro-batch times the tokens of one row in 0.16.1, and takes a packed row for one sequence.)

Shapes: s this rank's part of a sequence, b batch, h width, t = s * b tokens, e experts, f their width, k choices of a token, g groups,
n sequences of a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.dist_checkpointing.utils import replace_prefix_for_sharding
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor, distributed

from loongforge_core.layers.grouped import can_be_grouped, grouped_linear

__all__ = ["NumberedExperts", "SequenceRouter", "sequence_members"]


class SequenceRouter(TopKRouter):  # type: ignore[misc]
    """Megatron's router with our choice, which groups follow as published, and our loss."""

    sequences: Tensor | None = None
    """Which tokens, of those on all tensor ranks, belong to which sequence, `[n, b, all s]`; padding belongs to none. The layer sets it."""
    measured: Tensor | None = None
    """Sum of this rank's parts of the loss since somebody set it to None: for metrics."""

    def routing(self, logits_sbe: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weights and choices of every token's experts, both `[t, e]`, in the words of Megatron's dispatchers."""
        assert padding_mask is None
        config, logits_te = self.config, logits_sbe.flatten(0, 1)
        by_softmax = config.moe_router_score_function == "softmax"
        scores_te = logits_te.softmax(-1, torch.float32) if by_softmax else logits_te.float().sigmoid()
        chosen_tk = self.choose(scores_te if self.expert_bias is None else scores_te + self.expert_bias)
        weights_tk = scores_te.gather(1, chosen_tk)
        if not (by_softmax and config.moe_router_pre_softmax):
            weights_tk = weights_tk / weights_tk.sum(-1, keepdim=True).clamp(min=1e-20)
        weights_te = torch.zeros_like(scores_te).scatter(1, chosen_tk, weights_tk * config.moe_router_topk_scaling_factor)
        choices_te = chosen(chosen_tk, scores_te)
        # What is frozen balances nothing: its loss would bend only what is in front of it. Of no tokens Megatron moves no bias.
        if self.training and torch.is_grad_enabled() and self.weight.requires_grad and self.sequences is not None:
            members_nt = self.members(logits_sbe)
            if config.moe_aux_loss_coeff > 0:
                # What the scores alone would choose, as in DeepSeek-V3's report: the bias has its own way of balancing.
                counted_te = choices_te if self.expert_bias is None else chosen(scores_te.topk(self.topk).indices, scores_te)
                shares_te = scores_te if by_softmax else scores_te / scores_te.sum(-1, keepdim=True)
                loss = self.loss(members_nt, counted_te, shares_te)
                self.measured = loss.detach() if self.measured is None else self.measured + loss.detach()
                weights_te = MoEAuxLossAutoScaler.apply(weights_te, loss)
            if self.expert_bias is not None:
                self.local_tokens_per_expert += members_nt.sum(0) @ choices_te.float()
        return weights_te.to(logits_te.dtype), choices_te

    def choose(self, scores_te: Tensor) -> Tensor:
        """The best experts, `[t, k]`, of the best groups."""
        groups, best = self.config.moe_router_num_groups, self.config.moe_router_group_topk
        if groups is not None:
            scores_tge = scores_te.view(len(scores_te), groups, -1)
            rating = 1 if self.config.moe_router_score_function == "softmax" else 2
            groups_tg = scores_tge.topk(rating).values.sum(-1).topk(best).indices
            allowed_tg = torch.zeros_like(scores_tge[..., 0], dtype=torch.bool).scatter(1, groups_tg, True)
            scores_te = scores_tge.masked_fill(~allowed_tg.unsqueeze(-1), -torch.inf).flatten(1)
        return scores_te.topk(self.topk).indices

    def members(self, logits_sbe: Tensor) -> Tensor:
        """Which of this rank's tokens belong to which sequence, `[n, t]`, zeros and ones."""
        assert self.sequences is not None
        first = self.tp_group.rank() * len(logits_sbe) if self.config.sequence_parallel else 0
        return self.sequences[..., first : first + len(logits_sbe)].transpose(1, 2).flatten(1).float()

    def loss(self, members_nt: Tensor, counted_te: Tensor, shares_te: Tensor) -> Tensor:
        """This rank's part of the loss, summed over tokens; counts are those of whole sequences."""
        assert self.sequences is not None
        counts_ne = members_nt @ counted_te.float()
        if self.config.sequence_parallel and self.tp_group.size() > 1:
            distributed.all_reduce(counts_ne, group=self.tp_group)
        lengths_n1 = self.sequences.flatten(1).sum(1, keepdim=True).clamp(min=1)
        evenness = (counts_ne / lengths_n1 * (members_nt @ shares_te)).sum()
        scaled: Tensor = evenness * (self.config.moe_aux_loss_coeff * self.config.num_moe_experts / self.topk)
        return scaled


def chosen(indices_tk: Tensor, like_te: Tensor) -> Tensor:
    return torch.zeros_like(like_te, dtype=torch.bool).scatter(1, indices_tk, True)


def sequence_members(token_ids_bs: Tensor, padding_mask_bs: Tensor | None, packed: Any, *, together: bool) -> Tensor:
    """Which tokens belong to which sequence, `[n, b, s]`; `together`: all of them to one."""
    rows, length = token_ids_bs.shape
    if together:
        members_nbs = torch.ones((1, rows, length), dtype=torch.bool, device=token_ids_bs.device)
    elif packed is None:
        members_nbs = torch.eye(rows, dtype=torch.bool, device=token_ids_bs.device).unsqueeze(-1).expand(-1, -1, length)
    else:
        position_s, ends = torch.arange(length, device=token_ids_bs.device), packed.cu_seqlens_q.to(token_ids_bs.device)
        members_nbs = ((position_s >= ends[:-1, None]) & (position_s < ends[1:, None])).unsqueeze(1)
    return members_nbs if padding_mask_bs is None else members_nbs & ~padding_mask_bs


class NumberedExperts(SequentialMLP):  # type: ignore[misc]
    """Megatron's experts one by one, computed together where that is faster, and described under their numbers in the whole layer.

    Megatron describes them as one stack of all experts, which would be drawn, stored and exported as a whole.
    """

    def forward(self, tokens_th: Tensor, tokens_per_expert_e: Tensor, weights_t: Tensor) -> tuple[Tensor, None]:
        """This rank's experts' outputs, each for its tokens, times the router's weights."""
        first, second = ([layer.weight for layer in layers] for layers in zip(*((e.linear_fc1, e.linear_fc2) for e in self.local_experts)))
        if not (self.config.use_te_activation_func and can_be_grouped(*first, *second)):
            result: tuple[Tensor, None] = super().forward(tokens_th, tokens_per_expert_e, weights_t)
            return result
        for layer in (layer for expert in self.local_experts for layer in (expert.linear_fc1, expert.linear_fc2)):
            # Layers that are not called: Megatron waits in a hook of each for weights that are still on their way to it.
            for arrive in layer._forward_pre_hooks.values():
                arrive(layer, ())
        ends_e = tokens_per_expert_e.to(tokens_th.device, non_blocking=True).cumsum(0, dtype=torch.int32)
        inner_tf = self.local_experts[0].activation_func(grouped_linear(tokens_th, ends_e, first))
        return grouped_linear((inner_tf * weights_t.unsqueeze(-1)).to(inner_tf.dtype), ends_e, second), None

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        described: dict[str, Any] = {}
        first = self.ep_group.rank() * self.num_local_experts
        for index, expert in enumerate(self.local_experts):
            here, everywhere = (f"{prefix}local_experts.{number}." for number in (index, first + index))
            own = expert.sharded_state_dict(here, sharded_offsets, metadata)
            replace_prefix_for_sharding(own, here, everywhere)
            for part in own.values():
                part.replica_id = (*part.replica_id[:-1], self.dp_group.rank())
            described.update(own)
        return described
