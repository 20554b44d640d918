"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) with rotary positions by token.

Megatron's `MLASelfAttention` has rotary angles of its own, which count positions from the start of a row; here they come from
`RotaryAngles`, as in the other attention. Left out: cached latent states, for generation.

Shapes: s sequence, b batch, n this rank's query heads, d head width, f frequencies, t tokens of a packed row.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel import (
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.multi_latent_attention import MLASelfAttention
from torch import Tensor

from loongforge_core.layers.rotary import rotate

__all__ = ["LatentSelfAttention"]


class LatentSelfAttention(MLASelfAttention):  # type: ignore[misc]
    """Megatron's modules; queries, keys and values are made of them here.

    The gradient of the rotary key, which all heads share, is summed over tensor ranks by `parallel.repairs`.
    """

    rotation: Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.rotary_pos_emb  # counts positions from the start of a row

    def _resolve_qk_norm_config(self, submodules: Any) -> dict[str, Any]:
        """Megatron 0.19 asks for the modules to build; it would refuse a norm of latent keys beside queries that have no latent state."""
        return dict(vars(submodules))

    def forward(self, *args: Any, rotary_pos_emb: Tensor | None = None, **kwargs: Any) -> Any:
        self.rotation = rotary_pos_emb
        try:
            return super().forward(*args, rotary_pos_emb=None, **kwargs)
        finally:
            self.rotation = None

    def get_query_key_value_tensors(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        position_ids: Tensor | None = None,
        packed_seq_params: Any = None,
        inference_context: Any = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Heads `[s, b, n, d]`, packed `[t, n, d]`, and the latent states of queries and keys."""
        assert self.rotation is not None
        config, heads = self.config, self.num_attention_heads_per_partition
        latent_query, query_sbnd = self.queries(hidden_states)
        combined, _ = self.linear_kv_down_proj(hidden_states)  # whole on each rank: see `parallel.repairs`
        latent, shared_key = torch.split(combined, [config.kv_lora_rank, config.qk_pos_emb_head_dim], dim=-1)
        if config.sequence_parallel:
            shared_key = gather_from_sequence_parallel_region(shared_key, group=self.tp_group)
        latent = self.kv_layernorm(latent)
        up, _ = self.linear_kv_up_proj(latent)
        key_sbnd, value_sbnd = torch.split(up.view(*up.shape[:-1], heads, -1), [config.qk_head_dim, config.v_head_dim], dim=-1)
        query_sbnd, turning = torch.split(query_sbnd, [config.qk_head_dim, config.qk_pos_emb_head_dim], dim=-1)
        turned_key = self.turn(shared_key.unsqueeze(-2)).expand(-1, -1, heads, -1)
        query_sbnd = torch.cat((query_sbnd, self.turn(turning)), dim=-1)
        key_sbnd = torch.cat((key_sbnd, turned_key), dim=-1)
        if packed_seq_params is not None:
            query_sbnd, key_sbnd, value_sbnd = (each.squeeze(1) for each in (query_sbnd, key_sbnd, value_sbnd))
        return query_sbnd, key_sbnd, value_sbnd, latent_query, latent

    def queries(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Their latent state, or what there is in its place, and `[s, b, n, d]`."""
        if self.config.q_lora_rank is None:
            latent = hidden_states
            query, _ = self.linear_q_proj(hidden_states)
        else:
            latent, _ = self.linear_q_down_proj(hidden_states)
            if latent.shape[-1] != self.config.q_lora_rank:
                latent = gather_from_tensor_model_parallel_region(latent, group=self.tp_group)
                if self.config.sequence_parallel:
                    latent = scatter_to_sequence_parallel_region(latent, group=self.tp_group)
            latent = self.q_layernorm(latent)
            query, _ = self.linear_q_up_proj(latent)
        return latent, query.view(*query.shape[:-1], self.num_attention_heads_per_partition, -1)

    def turn(self, heads_sbnd: Tensor) -> Tensor:
        """Published weights have the two numbers that turn together side by side; turned ones have them half a head apart, which attention
        does not notice, since queries and keys have it alike."""
        assert self.rotation is not None
        pairs = heads_sbnd.reshape(*heads_sbnd.shape[:-1], -1, 2)
        return rotate(pairs.transpose(-1, -2).flatten(-2), self.rotation)
