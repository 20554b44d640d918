"""Attention of the torch backend: Megatron's self-attention with rotary positions by token, and torch's scaled-dot-product attention
where it calls `core_attention`.

Grouped queries, causal or full, padded batches or packed rows. Windows and context parallelism are not here yet: they are refused when
the module is built.

Shapes: s sequence, b batch, n query heads, g key and value heads, d head width, t tokens of a packed row.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor, nn
from torch.nn import functional as F

from loongforge_core.layers.rotary import rotate

__all__ = ["RotarySelfAttention", "ScaledDotProductAttention"]


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
        if config.context_parallel_size > 1 or config.window_size is not None:
            raise NotImplementedError("the torch backend's attention has neither context parallelism nor windows yet")
        self.scale = softmax_scale

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

        A causal batch needs no mask for padding on the right. A packed row is cut at `cu_seqlens_q`.
        """
        assert attention_bias is None
        causal = attn_mask_type in (AttnMaskType.causal, AttnMaskType.padding_causal)
        if packed_seq_params is None:
            heads = [x.permute(1, 2, 0, 3) for x in (query, key, value)]
            out_bnsd = self.attend(*heads, causal=causal)
            return out_bnsd.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        pieces = zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (query, key, value)), strict=True)  # type: ignore[no-untyped-call]
        return torch.cat([self.attend(*piece, causal=causal) for piece in pieces], dim=1).transpose(0, 1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
        grouped = query.shape[-3] != key.shape[-3]
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=self.scale, enable_gqa=grouped)


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
