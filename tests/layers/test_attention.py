"""The torch backend's attention and rotary positions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType

from loongforge_core.layers.attention import ScaledDotProductAttention
from loongforge_core.layers.decoder_config import Llama3RotaryScaling
from loongforge_core.layers.rotary import RotaryAngles, rotate

PLAIN = SimpleNamespace(context_parallel_size=1, window_size=None)


def attention() -> ScaledDotProductAttention:
    return ScaledDotProductAttention(PLAIN, 1, AttnMaskType.causal, "self")


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool) -> torch.Tensor:
    """Softmax attention written out, [s, b, n, d] with repeated keys."""
    repeat = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(repeat, 2), value.repeat_interleave(repeat, 2)
    scores = torch.einsum("sbnd,tbnd->bnst", query, key) / query.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    return torch.einsum("bnst,tbnd->sbnd", scores.softmax(-1), value).flatten(2)


@pytest.mark.parametrize("mask", [AttnMaskType.causal, AttnMaskType.no_mask])
def test_grouped_queries_equal_attention_written_out(mask: AttnMaskType) -> None:
    query, key, value = torch.randn(7, 3, 4, 8), torch.randn(7, 3, 2, 8), torch.randn(7, 3, 2, 8)
    expected = by_hand(query, key, value, causal=mask is AttnMaskType.causal)
    torch.testing.assert_close(attention()(query, key, value, None, mask), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mask", [AttnMaskType.causal, AttnMaskType.no_mask])
def test_packed_samples_do_not_see_each_other(mask: AttnMaskType) -> None:
    lengths = [5, 1, 4]
    query, key, value = torch.randn(10, 4, 8), torch.randn(10, 2, 8), torch.randn(10, 2, 8)
    bounds = torch.tensor([0, 5, 6, 10], dtype=torch.int32)
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds)
    together = attention()(query, key, value, None, mask, packed_seq_params=packed)
    rows = zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
    alone = [attention()(*(x.unsqueeze(1) for x in row), None, mask).squeeze(1) for row in rows]
    torch.testing.assert_close(together.flatten(1), torch.cat(alone), atol=1e-6, rtol=0)


@pytest.mark.parametrize("config", [{"context_parallel_size": 2, "window_size": None}, {"context_parallel_size": 1, "window_size": (4, 0)}])
def test_what_is_not_there_is_refused_when_built(config: dict[str, object]) -> None:
    with pytest.raises(NotImplementedError, match="neither context parallelism nor windows"):
        ScaledDotProductAttention(SimpleNamespace(**config), 1, AttnMaskType.causal, "self")


def test_rotation_is_a_turn_by_the_position() -> None:
    """Against complex multiplication; and turning back is the gradient."""
    positions = torch.tensor([[0, 1, 5], [2, 2, 9]])
    heads = torch.randn(3, 2, 4, 8, requires_grad=True)
    angles = RotaryAngles(8, 100.0)
    turned = rotate(heads, angles(positions, torch.float32))
    pairs = torch.complex(heads[..., :4], heads[..., 4:])
    frequency = 1 / 100.0 ** (torch.arange(4) / 4)
    phase = torch.polar(torch.ones(3, 2, 1, 4), (positions.t()[:, :, None, None] * frequency))
    expected = torch.cat(((pairs * phase).real, (pairs * phase).imag), dim=-1)
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=0)
    upstream = torch.randn_like(turned)
    (ours,) = torch.autograd.grad(turned, heads, upstream, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, heads, upstream)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_llama3_scaling_keeps_high_frequencies_and_divides_low_ones() -> None:
    scaling = Llama3RotaryScaling(factor=8.0, original_max_position_embeddings=64)
    plain, scaled = RotaryAngles(64, 1e4).inverse_frequency, RotaryAngles(64, 1e4, scaling).inverse_frequency
    assert torch.equal(scaled[0], plain[0])
    torch.testing.assert_close(scaled[-1], plain[-1] / 8)
    assert (scaled.diff() < 0).all()
