"""Norms, the gated activation, the vocabulary's loss, and which specification a backend selects."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from torch.nn import functional as F

from loongforge_core.errors import VersionError
from loongforge_core.layers import specs
from loongforge_core.layers.attention import RotarySelfAttention, ScaledDotProductAttention
from loongforge_core.layers.decoder import Decoder
from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.layers.gated import GatedSilu, SiluTimes
from loongforge_core.layers.interfaces import BuildContext
from loongforge_core.layers.loss import mask_padded_vocabulary
from loongforge_core.layers.norms import LayerNorm, RMSNorm
from loongforge_core.layers.specs import block_spec, layer_spec
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_core.parallel.initialise import initialise

TINY = DecoderConfig(num_layers=3, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, vocab_size=29)


@pytest.mark.parametrize("norm", [RMSNorm, LayerNorm])
def test_norm_parameters_are_marked_for_sequence_parallelism(norm: type[torch.nn.Module]) -> None:
    for enabled in (True, False):
        module = norm(SimpleNamespace(params_dtype=torch.bfloat16, sequence_parallel=enabled), 8)  # type: ignore[call-arg]
        assert all(p.sequence_parallel is enabled and p.dtype == torch.bfloat16 for p in module.parameters())  # type: ignore[attr-defined]


def test_rms_norm_and_its_gradient_equal_autograd() -> None:
    norm = RMSNorm(SimpleNamespace(params_dtype=torch.float32, sequence_parallel=False), 12, 1e-3)
    reference = torch.nn.RMSNorm(12, eps=1e-3)
    weight = torch.randn(12)
    for module in (norm, reference):
        module.weight.data.copy_(weight)
    ours, theirs = (torch.randn(5, 3, 12, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    upstream = torch.randn(5, 3, 12)
    for module, x in ((norm, ours), (reference, theirs)):
        module(x).backward(upstream)
    # Sums of up to 15 products of size 1 in another order: a few units in the last place.
    for found, expected in ((norm(ours), reference(theirs)), (ours.grad, theirs.grad), (norm.weight.grad, reference.weight.grad)):
        torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)


def test_rms_norm_of_bfloat16_is_computed_in_float32() -> None:
    norm = RMSNorm(SimpleNamespace(params_dtype=torch.bfloat16, sequence_parallel=False), 64)
    norm.weight.data.fill_(1.0)
    x = torch.randn(7, 64).bfloat16()
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x).double(), exact, atol=0, rtol=2**-8)


def test_gated_silu_and_its_gradient_equal_autograd() -> None:
    both = torch.randn(5, 3, 12, dtype=torch.float64, requires_grad=True)
    gate, up = both.chunk(2, -1)
    torch.testing.assert_close(SiluTimes.apply(both), F.silu(gate) * up)
    assert torch.autograd.gradcheck(SiluTimes.apply, both)


def test_padded_vocabulary_does_not_change_the_loss(context: BuildContext) -> None:
    """29 rows padded to 32: the loss of the padded model is that of the plain one."""
    from dataclasses import replace

    ids, positions = torch.randint(0, 29, (2, 7)), torch.arange(7).expand(2, 7)
    losses = []
    for rows in (None, 32):
        decoder = Decoder(TINY, replace(context, padded_vocab_size=rows))
        initialise({"foundation": decoder}, seed=3)
        losses.append(decoder(decoder.embed(ids), positions, token_ids_bs=ids, labels_bs=ids))
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=0)


def test_masking_leaves_real_rows_alone() -> None:
    logits = torch.randn(2, 1, 8)
    masked = mask_padded_vocabulary(logits, vocab_size=13, first_row=8)
    assert torch.equal(masked[..., :5], logits[..., :5])
    assert masked[..., 5:].max() == torch.finfo(torch.float32).min
    assert mask_padded_vocabulary(logits, vocab_size=16, first_row=8) is logits


def megatron(context: BuildContext) -> TransformerConfig:
    return transformer_config(TINY, context)


def test_torch_backend_is_megatrons_layer_with_our_attention_and_norms(context: BuildContext) -> None:
    config = megatron(context)
    spec = block_spec(config, "torch", [layer_spec(config, "torch", mask=AttnMaskType.no_mask)] * 2)
    layer = spec.layer_specs[0].submodules
    assert len(spec.layer_specs) == 2 and spec.layer_norm is RMSNorm and layer.input_layernorm is RMSNorm
    assert layer.self_attention.module is RotarySelfAttention
    assert layer.self_attention.submodules.core_attention is ScaledDotProductAttention
    assert layer.self_attention.params == {"attn_mask_type": AttnMaskType.no_mask}
    assert layer.mlp.submodules.activation_func is GatedSilu


def test_transformer_engine_backend_takes_megatrons_parts_in_the_same_places(
    context: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which parts are chosen; where transformer-engine is not installed, Megatron has stand-ins under their names."""
    from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider

    parts = TESpecProvider()
    monkeypatch.setattr(specs, "find_spec", lambda _: object())
    config = megatron(context)
    layer, ours = (layer_spec(config, backend, mask=AttnMaskType.causal).submodules for backend in ("transformer_engine", "torch"))
    spec = block_spec(config, "transformer_engine", [])
    assert spec.layer_norm is layer.input_layernorm is layer.pre_mlp_layernorm is parts.layer_norm(rms_norm=True)
    attention = layer.self_attention.submodules
    assert layer.self_attention.module is RotarySelfAttention and attention.core_attention is parts.core_attention()
    assert attention.linear_qkv is layer.mlp.submodules.linear_fc1 is parts.column_parallel_linear()
    assert attention.linear_proj is layer.mlp.submodules.linear_fc2 is parts.row_parallel_linear()
    assert layer.self_attention.submodules.linear_qkv is not ours.self_attention.submodules.linear_qkv


@pytest.mark.skipif(find_spec("transformer_engine") is not None, reason="transformer-engine is installed here")
def test_transformer_engine_asked_for_and_missing_is_said(context: BuildContext) -> None:
    with pytest.raises(VersionError, match=r"transformer-engine is not installed.*backend at torch"):
        layer_spec(megatron(context), "transformer_engine", mask=AttnMaskType.causal)
