"""Attention of the torch backend: Megatron's self-attention with rotary positions by token, and torch's scaled-dot-product attention
where it calls `core_attention`.

Grouped queries, causal or full, with or without a sliding window, padded batches or packed rows. Context parallelism is not here yet: it
is refused when the module is built.

Shapes: s sequence, b batch, n query heads, g key and value heads, d head width, t tokens of a packed row.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from loongforge_core.layers.norms import AllHeadsRMSNorm
from loongforge_core.layers.packing import PackedRow
from loongforge_core.layers.rotary import rotate

__all__ = ["AllHeadsNormSelfAttention", "RotarySelfAttention", "ScaledDotProductAttention"]

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""All but cuDNN's, which on Hopper torch would choose first: with torch 2.11 and bfloat16 the backward pass of a tiny audio encoder gave
gradients of 1e25 and infinity there, others report NaN up to 2.13 (github.com/pytorch/pytorch/issues/196678)."""


class ScaledDotProductAttention(nn.Module):
    """Stands where Megatron's specs name `core_attention`; Megatron chooses the constructor's and `forward`'s arguments."""

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        if config.context_parallel_size > 1:
            raise NotImplementedError("the torch backend's attention has no context parallelism yet")
        self.scale = softmax_scale
        self.window: tuple[int, int] | None = config.window_size

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: AttnMaskType = AttnMaskType.causal,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Heads `[s, b, n, d]` and `[s, b, g, d]` -> `[s, b, n * d]`; packed: `[t, n, d]`, `[t, g, d]` -> `[t, n, d]`.

        A causal batch needs no mask for padding on the right. A packed row is cut at `cu_seqlens_q`, which a device is only asked for where
        the lengths are not on the host.
        """
        assert attention_bias is None
        causal = attn_mask_type in (AttnMaskType.causal, AttnMaskType.padding_causal)
        with sdpa_kernel(KERNELS):
            if packed_seq_params is not None:
                return self.attend_packed(query, key, value, packed_seq_params, causal=causal)
            heads = [x.permute(1, 2, 0, 3) for x in (query, key, value)]
            out_bnsd = self.attend(*heads, causal=causal)
        return out_bnsd.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)

    def attend_packed(self, query: Tensor, key: Tensor, value: Tensor, packed_seq_params: Any, *, causal: bool) -> Tensor:
        on_host = isinstance(packed_seq_params, PackedRow)
        lengths = list(packed_seq_params.lengths) if on_host else packed_seq_params.cu_seqlens_q.diff().tolist()
        # A batch of one each: to tensors of three dimensions torch would not apply its fused kernels.
        rows = [x.transpose(0, 1).unsqueeze(0).split(lengths, dim=2) for x in (query, key, value)]  # type: ignore[no-untyped-call]
        return torch.cat([self.attend(*piece, causal=causal) for piece in zip(*rows, strict=True)], dim=2)[0].transpose(0, 1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
        if value.shape[-1] < query.shape[-1]:
            # Fused kernels want values as wide as queries: with narrower ones torch would keep all scores in memory.
            wide = F.pad(value, (0, query.shape[-1] - value.shape[-1]))
            return self.attend(query, key, wide, causal=causal)[..., : value.shape[-1]]
        visible_ss, length = None, query.shape[-2]
        if self.window is not None and not is_wider(self.window, length, causal=causal):
            visible_ss, causal = in_window(self.window, length, causal=causal, device=query.device), False
        key, value = (with_heads(each, query, masked=visible_ss is not None) for each in (key, value))
        grouped = query.shape[-3] != key.shape[-3]
        return F.scaled_dot_product_attention(query, key, value, visible_ss, is_causal=causal, scale=self.scale, enable_gqa=grouped)


def with_heads(shared: Tensor, query: Tensor, *, masked: bool) -> Tensor:
    """Keys or values, repeated for every query head where torch has no fused kernel for fewer: it would keep the scores of all pairs in
    memory, in every layer. An accelerator's kernels take fewer in half precision and without a mask only, a CPU's in any case."""
    repeats = query.shape[-3] // shared.shape[-3]
    takes_fewer = query.device.type == "cpu" or (query.dtype != torch.float32 and not masked)
    return shared if repeats == 1 or takes_fewer else shared.repeat_interleave(repeats, dim=-3)


def is_wider(window: tuple[int, int], length: int, *, causal: bool) -> bool:
    """Whether no two of so many tokens are too far apart for `window`."""
    before, behind = (reach == -1 or reach >= length - 1 for reach in window)
    return before and (behind or causal)


def in_window(window: tuple[int, int], length: int, *, causal: bool, device: torch.device) -> Tensor:
    """Which keys each query sees, `[s, s]`: Megatron's `window_size`, so many before a token and so many behind it, -1 meaning all."""
    before, behind = (length if reach == -1 else reach for reach in window)
    # One byte for each pair: their distances would be eight times as much.
    return torch.ones((length, length), dtype=torch.bool, device=device).tril_(0 if causal else behind).triu_(-before)


class RotarySelfAttention(SelfAttention):  # type: ignore[misc]
    """Megatron's self-attention, whose `rotary_pos_emb` is `RotaryAngles`' cosines and sines of every token.

    Megatron's own rotation counts positions from the start of each packed sequence, takes cosines anew in every layer and copies each
    result once more; this one knows every token's angles, so that packing, M-RoPE and context parallelism need nothing special.
    """

    rotation: Tensor | None = None

    def forward(self, *args: Any, rotary_pos_emb: Tensor | None = None, **kwargs: Any) -> Any:
        self.rotation = rotary_pos_emb
        try:
            return super().forward(*args, rotary_pos_emb=None, **kwargs)
        finally:
            self.rotation = None

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
        query, key, *rest = super().get_query_key_value_tensors(*args, **kwargs)
        if self.rotation is None:
            return query, key, *rest
        return rotate(query, self.rotation), rotate(key, self.rotation), *rest


class AllHeadsNormSelfAttention(RotarySelfAttention):
    """Queries, and keys, are normalised over all heads together, before they are rotated. For configs without `qk_layernorm`.

    Megatron's own place for these norms is told the width of one head and no group, so they are put there afterwards.
    """

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        width, group = self.hidden_size_per_attention_head, self.pg_collection.tp
        assert config.num_query_groups >= group.size(), "tensor ranks that share a key's head would normalise it twice"
        self.q_layernorm = AllHeadsRMSNorm(config, self.num_attention_heads_per_partition, width, group=group)
        self.k_layernorm = AllHeadsRMSNorm(config, self.num_query_groups_per_partition, width, group=group)
