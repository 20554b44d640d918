"""Which modules a transformer layer is made of: the seam between the backends.

`torch` is Megatron's own layers around this package's attention, norms and linear layers, and runs anywhere. `transformer_engine` puts the
parts of Megatron's own provider for it in the same places; no machine here has it, so that only the choice of parts is tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerLayer, TransformerLayerSubmodules
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.multi_latent_attention import MLASelfAttentionSubmodules
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from torch import Tensor

from loongforge_core.component import Backend
from loongforge_core.errors import VersionError
from loongforge_core.layers.attention import RotarySelfAttention, ScaledDotProductAttention
from loongforge_core.layers.experts import NumberedExperts, SequenceRouter
from loongforge_core.layers.gated import GatedSilu
from loongforge_core.layers.latent_attention import LatentSelfAttention
from loongforge_core.layers.linear import ColumnLinear, RowLinear
from loongforge_core.layers.norms import norm_class

__all__ = ["LevelLayer", "block_spec", "decoder_layer_specs", "layer_spec"]


class LevelLayer(TransformerLayer):  # type: ignore[misc]
    """A layer that adds its level to its output, and tells its router, where it has one, which tokens belong to which sequence.

    Levels travel in Megatron's `context`, `[l, s, b, h]`: the block hands it to every layer, through recomputation too, and nothing
    else in a decoder uses it. The block's owner numbers its layers: the levels that a pipeline stage gets begin with its first layer's.
    Sequences, `[n, b, s]`, travel likewise in `padding_mask`, in which Megatron could say no more than which tokens are padding.
    """

    level = 0
    """Which of the levels is this layer's."""

    def forward(self, *args: Any, padding_mask: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.mlp, MoELayer):
            self.mlp.router.sequences = padding_mask
        hidden_sbh, levels_lsbh = super().forward(*args, **kwargs)
        if levels_lsbh is not None and self.level < levels_lsbh.shape[0]:
            hidden_sbh = hidden_sbh + levels_lsbh[self.level]
        return hidden_sbh, levels_lsbh


def block_spec(config: Any, backend: Backend, layers: Sequence[ModuleSpec]) -> TransformerBlockSubmodules:
    """What a block of these layers and the norm behind them is made of. `config` is Megatron's TransformerConfig."""
    norm = provider(backend).layer_norm(rms_norm=config.normalization == "RMSNorm")
    return TransformerBlockSubmodules(layer_specs=list(layers), layer_norm=norm)


def decoder_layer_specs(config: Any, backend: Backend, numbers: Iterable[int]) -> list[ModuleSpec]:
    """Causal layers of these numbers in the whole model, from 0 on: each with experts or one MLP, as `config.moe_layer_freq` lists."""
    mlps: dict[bool, ModuleSpec | None] = {False: None}
    if config.num_moe_experts is not None:
        mlps[True] = experts_spec(config, backend)
    layers = {has: layer_spec(config, backend, mask=AttnMaskType.causal, mlp=mlp) for has, mlp in mlps.items()}
    return [layers[config.num_moe_experts is not None and bool(config.moe_layer_freq[number])] for number in numbers]


def layer_spec(config: Any, backend: Backend, *, mask: AttnMaskType, mlp: ModuleSpec | None = None) -> ModuleSpec:
    """One layer, with `mlp` in the place of its MLP where given. Names and places of its parameters do not depend on the backend, so
    neither do weights nor checkpoints.

    With `config.qk_layernorm` queries and keys are normalised head by head. A component whose layers differ further puts its own modules
    into the submodules. Raises VersionError when `transformer_engine` is asked for and not installed.
    """
    parts = provider(backend)
    norm = parts.layer_norm(rms_norm=config.normalization == "RMSNorm")
    return ModuleSpec(
        module=LevelLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=(latent_attention_spec if config.multi_latent_attention else attention_spec)(config, parts, mask),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=mlp or ModuleSpec(module=MLP, submodules=mlp_parts(config, parts)),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def attention_spec(config: Any, parts: Any, mask: AttnMaskType) -> ModuleSpec:
    head_norm = parts.layer_norm(rms_norm=config.normalization == "RMSNorm") if config.qk_layernorm else None
    return ModuleSpec(
        module=RotarySelfAttention,
        params={"attn_mask_type": mask},
        submodules=SelfAttentionSubmodules(
            linear_qkv=parts.column_parallel_linear(),
            core_attention=parts.core_attention(),
            linear_proj=parts.row_parallel_linear(),
            q_layernorm=head_norm,
            k_layernorm=head_norm,
        ),
    )


def latent_attention_spec(config: Any, parts: Any, mask: AttnMaskType) -> ModuleSpec:
    """Queries have a latent state where `config.q_lora_rank` says how wide it is."""
    norm, column = parts.layer_norm(rms_norm=config.normalization == "RMSNorm"), parts.column_parallel_linear()
    # Megatron chooses the arguments of the two down projections by their very class.
    down = ColumnParallelLinear if column is ColumnLinear else column
    return ModuleSpec(
        module=LatentSelfAttention,
        params={"attn_mask_type": mask},
        submodules=MLASelfAttentionSubmodules(
            linear_q_proj=column,
            linear_q_down_proj=down,
            linear_q_up_proj=column,
            linear_kv_down_proj=down,
            linear_kv_up_proj=column,
            core_attention=parts.core_attention(),
            linear_proj=parts.row_parallel_linear(),
            q_layernorm=norm,
            kv_layernorm=norm,
        ),
    )


def experts_spec(config: Any, backend: Backend) -> ModuleSpec:
    """Experts one by one, whatever the backend: their names do not depend on kernels that run them together."""
    parts = mlp_parts(config, provider(backend))
    return ModuleSpec(
        module=MoELayer,
        submodules=MoESubmodules(
            router=ModuleSpec(module=SequenceRouter),
            experts=ModuleSpec(module=NumberedExperts, submodules=parts),
            shared_experts=ModuleSpec(module=SharedExpertMLP, submodules=parts),
        ),
    )


def mlp_parts(config: Any, parts: Any) -> MLPSubmodules:
    return MLPSubmodules(
        linear_fc1=parts.column_parallel_linear(),
        linear_fc2=parts.row_parallel_linear(),
        activation_func=GatedSilu if config.use_te_activation_func else None,
    )


class TorchParts:
    """The torch backend, in the words of Megatron's `BackendSpecProvider`."""

    def layer_norm(self, rms_norm: bool) -> type:
        return norm_class("RMSNorm" if rms_norm else "LayerNorm")

    def column_parallel_linear(self) -> type:
        return ColumnLinear

    def row_parallel_linear(self) -> type:
        return RowLinear

    def core_attention(self) -> type:
        return ScaledDotProductAttention


def provider(backend: Backend) -> Any:
    """Where a backend's parts come from: Megatron's own provider for transformer-engine, which does not fuse norms into linears here."""
    if backend == "torch":
        return TorchParts()
    if find_spec("transformer_engine") is None:
        raise VersionError(
            "backend: transformer_engine was asked for, but transformer-engine is not installed; "
            "install it (pip install 'loongforge_core[gpu]', needs an NVIDIA GPU) or leave backend at torch"
        )
    from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider

    return TESpecProvider()
