"""The torch backend's attention."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType

from loongforge_core.layers.attention import ScaledDotProductAttention, with_heads
from loongforge_core.layers.packing import packed_row
from loongforge_core.testing.waiting import META, never_waiting


def attention(window: tuple[int, int] | None = None) -> ScaledDotProductAttention:
    return ScaledDotProductAttention(SimpleNamespace(context_parallel_size=1, window_size=window), 1, AttnMaskType.causal, "self")


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, window: tuple[int, int] = (-1, -1)) -> torch.Tensor:
    """Softmax attention written out, [s, b, n, d] with repeated keys."""
    repeat = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(repeat, 2), value.repeat_interleave(repeat, 2)
    scores = torch.einsum("sbnd,tbnd->bnst", query, key) / query.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    for query_token, key_token in itertools.product(range(len(query)), repeat=2):
        before, behind = (len(query) if reach == -1 else reach for reach in window)
        if not query_token - before <= key_token <= query_token + behind:
            scores[..., query_token, key_token] = float("-inf")
    return torch.einsum("bnst,tbnd->sbnd", scores.softmax(-1), value).flatten(2)


@pytest.mark.parametrize("mask", [AttnMaskType.causal, AttnMaskType.no_mask])
def test_grouped_queries_equal_attention_written_out(mask: AttnMaskType) -> None:
    query, key, value = torch.randn(7, 3, 4, 8), torch.randn(7, 3, 2, 8), torch.randn(7, 3, 2, 8)
    expected = by_hand(query, key, value, causal=mask is AttnMaskType.causal)
    torch.testing.assert_close(attention()(query, key, value, None, mask), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask", [AttnMaskType.causal, AttnMaskType.no_mask])
def test_values_narrower_than_queries_equal_attention_written_out(mask: AttnMaskType) -> None:
    query, key, value = torch.randn(7, 3, 4, 12), torch.randn(7, 3, 4, 12), torch.randn(7, 3, 4, 8)
    expected = by_hand(query, key, value, causal=mask is AttnMaskType.causal)
    torch.testing.assert_close(attention()(query, key, value, None, mask), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("width", [12, 8])
@pytest.mark.parametrize("lengths", [None, [70, 3]])
def test_scores_of_all_pairs_of_tokens_are_not_kept_for_the_gradient(lengths: list[int] | None, width: int) -> None:
    """As they are where torch has no fused kernel for what it is given."""
    heads = (73, 4) if lengths else (73, 1, 4)
    query, key, value = (torch.randn(*heads, size, requires_grad=True) for size in (12, 12, width))
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention()(query, key, value, None, AttnMaskType.causal, packed_seq_params=packed_row(lengths) if lengths else None)
    assert kept and max(kept) < 70 * 70 * 4


@pytest.mark.parametrize("mask", [AttnMaskType.causal, AttnMaskType.no_mask])
def test_packed_samples_do_not_see_each_other(mask: AttnMaskType) -> None:
    lengths = [5, 1, 4]
    query, key, value = torch.randn(10, 4, 8), torch.randn(10, 2, 8), torch.randn(10, 2, 8)
    bounds = torch.tensor([0, 5, 6, 10], dtype=torch.int32)
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds)
    together = attention()(query, key, value, None, mask, packed_seq_params=packed)
    assert torch.equal(attention()(query, key, value, None, mask, packed_seq_params=packed_row(lengths)), together), "lengths on the host"
    rows = zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
    alone = [attention()(*(x.unsqueeze(1) for x in row), None, mask).squeeze(1) for row in rows]
    torch.testing.assert_close(together.flatten(1), torch.cat(alone), atol=1e-6, rtol=0)


WINDOWS = [(3, 0), (0, 0), (2, 1), (-1, 2), (4, -1), (50, 0), (50, 50)]
"""Megatron's: so many tokens before, so many behind, -1 for all."""


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("mask", [AttnMaskType.causal, AttnMaskType.no_mask])
def test_a_window_equals_attention_written_out(mask: AttnMaskType, window: tuple[int, int]) -> None:
    query, key, value = torch.randn(9, 3, 4, 8), torch.randn(9, 3, 2, 8), torch.randn(9, 3, 2, 8)
    expected = by_hand(query, key, value, mask is AttnMaskType.causal, window)
    torch.testing.assert_close(attention(window)(query, key, value, None, mask), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask", [AttnMaskType.causal, AttnMaskType.no_mask])
def test_windows_begin_anew_with_every_packed_sample(mask: AttnMaskType) -> None:
    lengths, window = [6, 2, 7], (3, 1)
    query, key, value = torch.randn(15, 4, 8), torch.randn(15, 2, 8), torch.randn(15, 2, 8)
    together = attention(window)(query, key, value, None, mask, packed_seq_params=packed_row(lengths))
    rows = zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
    alone = [by_hand(*(x.unsqueeze(1) for x in row), mask is AttnMaskType.causal, window).squeeze(1) for row in rows]
    torch.testing.assert_close(together.flatten(1), torch.cat(alone), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype, masked, heads", [(torch.bfloat16, False, 2), (torch.bfloat16, True, 6), (torch.float32, False, 6)])
def test_keys_are_repeated_where_an_accelerator_has_no_kernel_for_fewer(dtype: torch.dtype, masked: bool, heads: int) -> None:
    query, key = torch.empty(1, 6, 5, 8, dtype=dtype), torch.randn(1, 2, 5, 8, dtype=dtype)
    assert with_heads(key, query, masked=masked) is key, "a CPU has one"
    assert with_heads(key.to(META), query.to(META), masked=masked).shape == (1, heads, 5, 8)


def test_lengths_on_the_host_are_not_asked_of_a_device() -> None:
    """And their ends go to it without a wait."""
    query, key, value = (torch.empty(15, heads, 8, device=META) for heads in (4, 2, 2))
    with never_waiting():
        row = packed_row([6, 2, 7], device=META)
        assert attention()(query, key, value, packed_seq_params=row).shape == (15, 4, 8)


def test_context_parallelism_is_refused_when_built() -> None:
    with pytest.raises(NotImplementedError, match="no context parallelism"):
        ScaledDotProductAttention(SimpleNamespace(context_parallel_size=2, window_size=None), 1, AttnMaskType.causal, "self")
