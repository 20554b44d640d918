"""Which modules a transformer layer is made of: the seam between the backends.

`torch` is Megatron's own layers around this package's attention and norms, and runs anywhere. `transformer_engine` is Megatron's own
specification for it; it is untested here, for want of a machine that has it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

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
    else in a decoder uses it. Layer i (from 0, over the whole model) adds level i.
    """

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        hidden_sbh, levels_lsbh = super().forward(*args, **kwargs)
        level = self.layer_number - 1
        if levels_lsbh is not None and level < levels_lsbh.shape[0]:
            hidden_sbh = hidden_sbh + levels_lsbh[level]
        return hidden_sbh, levels_lsbh


def block_spec(config: Any, backend: Backend, *, mask: AttnMaskType, num_layers: int) -> TransformerBlockSubmodules:
    """What `num_layers` layers of `config` (Megatron's TransformerConfig) and the norm behind them are made of.

    Raises VersionError when `transformer_engine` is asked for and not installed.
    """
    layer = layer_spec(config, backend, mask=mask)
    norm = transformer_engine_norm() if backend == "transformer_engine" else norm_class(config.normalization)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=norm)


def layer_spec(config: Any, backend: Backend, *, mask: AttnMaskType) -> ModuleSpec:
    """One layer."""
    layer = transformer_engine_layer() if backend == "transformer_engine" else torch_layer(config)
    layer.submodules.self_attention.params = {"attn_mask_type": mask}
    return layer


def torch_layer(config: Any) -> ModuleSpec:
    norm = norm_class(config.normalization)
    return ModuleSpec(
        module=LevelLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=ModuleSpec(
                module=RotarySelfAttention,
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=ScaledDotProductAttention,
                    linear_proj=RowParallelLinear,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(
                    linear_fc1=ColumnParallelLinear,
                    linear_fc2=RowParallelLinear,
                    activation_func=GatedSilu if config.use_te_activation_func else None,
                ),
            ),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def transformer_engine_norm() -> Any:
    require_transformer_engine()
    from megatron.core.extensions.transformer_engine import TENorm

    return TENorm


def transformer_engine_layer() -> ModuleSpec:
    require_transformer_engine()
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec

    layer = get_gpt_layer_with_transformer_engine_spec()
    layer.module = LevelLayer
    return layer


def require_transformer_engine() -> None:
    if find_spec("transformer_engine") is None:
        raise VersionError(
            "backend: transformer_engine was asked for, but transformer-engine is not installed; "
            "install it (pip install 'loongforge_core[gpu]', needs an NVIDIA GPU) or leave backend at torch"
        )
