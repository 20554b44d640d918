"""Which parts a backend's layers are made of."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType

from loongforge_core.errors import VersionError
from loongforge_core.layers import specs
from loongforge_core.layers.attention import RotarySelfAttention, ScaledDotProductAttention
from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.layers.gated import GatedSilu
from loongforge_core.layers.interfaces import BuildContext
from loongforge_core.layers.norms import RMSNorm
from loongforge_core.layers.specs import block_spec, layer_spec
from loongforge_core.layers.transformer_config import transformer_config

TINY = DecoderConfig(num_layers=3, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, vocab_size=29)


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
