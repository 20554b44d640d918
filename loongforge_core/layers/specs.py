"""Which modules a transformer layer is made of: the seam between the backends.

`torch` is Megatron's own layers around this package's attention and norms, and runs anywhere. `transformer_engine` puts the parts of
Megatron's own provider for it in the same places; no machine here has it, so that only the choice of parts is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, cast

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerLayer, TransformerLayerSubmodules
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from torch import Tensor

from loongforge_core.errors import VersionError
from loongforge_core.layers.attention import RotarySelfAttention, ScaledDotProductAttention
from loongforge_core.layers.gated import GatedSilu
from loongforge_core.layers.interfaces import Backend
from loongforge_core.layers.norms import norm_class

__all__ = ["LevelLayer", "block_spec", "layer_spec"]


class LevelLayer(TransformerLayer):  # type: ignore[misc]
    """A layer that adds its level to its output.

    Levels travel in Megatron's `context`, `[l, s, b, h]`: the block hands it to every layer, through recomputation too, and nothing
    else in a decoder uses it. The block's owner numbers its layers: the levels that a pipeline stage gets begin with its first layer's.
    """

    level = 0
    """Which of the levels is this layer's."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        hidden_sbh, levels_lsbh = super().forward(*args, **kwargs)
        if levels_lsbh is not None and self.level < levels_lsbh.shape[0]:
            hidden_sbh = hidden_sbh + levels_lsbh[self.level]
        return hidden_sbh, levels_lsbh


def block_spec(config: Any, backend: Backend, layers: Sequence[ModuleSpec]) -> TransformerBlockSubmodules:
    """What a block of these layers and the norm behind them is made of. `config` is Megatron's TransformerConfig."""
    norm = provider(backend).layer_norm(rms_norm=config.normalization == "RMSNorm")
    return TransformerBlockSubmodules(layer_specs=list(layers), layer_norm=norm)


def layer_spec(config: Any, backend: Backend, *, mask: AttnMaskType) -> ModuleSpec:
    """One layer. Names and places of its parameters do not depend on the backend, so neither do weights nor checkpoints.

    With `config.qk_layernorm` queries and keys are normalised head by head. A component whose layers differ further puts its own modules
    into the submodules. Raises VersionError when `transformer_engine` is asked for and not installed.
    """
    parts = provider(backend)
    norm = parts.layer_norm(rms_norm=config.normalization == "RMSNorm")
    column, row = parts.column_parallel_linear(), parts.row_parallel_linear()
    head_norm = norm if config.qk_layernorm else None
    return ModuleSpec(
        module=LevelLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=ModuleSpec(
                module=RotarySelfAttention,
                params={"attn_mask_type": mask},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=column,
                    core_attention=parts.core_attention(),
                    linear_proj=row,
                    q_layernorm=head_norm,
                    k_layernorm=head_norm,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(
                    linear_fc1=column, linear_fc2=row, activation_func=GatedSilu if config.use_te_activation_func else None
                ),
            ),
            mlp_bda=get_bias_dropout_add,
        ),
    )


class TorchParts:
    """The torch backend, in the words of Megatron's `BackendSpecProvider`."""

    def layer_norm(self, rms_norm: bool) -> type:
        return norm_class("RMSNorm" if rms_norm else "LayerNorm")

    def column_parallel_linear(self) -> type:
        return cast(type, ColumnParallelLinear)

    def row_parallel_linear(self) -> type:
        return cast(type, RowParallelLinear)

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
