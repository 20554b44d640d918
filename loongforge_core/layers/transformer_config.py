"""Makes Megatron's `TransformerConfig` from a component's config and its build context; nowhere else is one made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_config import MLATransformerConfig
from torch import Tensor
from torch.nn import functional as F

from loongforge_core.layers.interfaces import BuildContext

__all__ = ["TransformerArchitecture", "transformer_config"]


class TransformerArchitecture(Protocol):
    """A config whose component is built from Megatron's transformer layers."""

    def transformer_fields(self) -> Mapping[str, Any]:
        """Fields of Megatron's `TransformerConfig`, with `activation` (a name in `ACTIVATIONS`) for `activation_func`.

        With `multi_latent_attention`, of its `MLATransformerConfig`.
        """


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU, arXiv:1606.08415."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
}

RECOMPUTE: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective"},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}


def transformer_config(config: TransformerArchitecture, context: BuildContext) -> TransformerConfig:
    """Dropout is off and nothing is fused: what is not in the two arguments is not in the model."""
    fields = dict(config.transformer_fields())
    fields["activation_func"] = ACTIVATIONS[fields.pop("activation")]
    gated_silu = fields.get("gated_linear_unit", False) and fields["activation_func"] is F.silu
    groups = context.groups
    if fields.get("num_moe_experts"):
        fields |= {"expert_model_parallel_size": groups.ep.size(), "expert_tensor_parallel_size": groups.expt_tp.size()}
    config_class = MLATransformerConfig if fields.get("multi_latent_attention") else TransformerConfig
    return config_class(
        **fields,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=context.dtype,
        pipeline_dtype=context.dtype,
        bf16=context.dtype == torch.bfloat16,
        tensor_model_parallel_size=groups.tp.size(),
        pipeline_model_parallel_size=groups.pp.size(),
        context_parallel_size=groups.cp.size(),
        sequence_parallel=context.sequence_parallel,
        calculate_per_token_loss=True,
        variable_seq_lengths=True,
        moe_token_dispatcher_type="alltoall",
        # Parameters are allocated where `torch.device` says and left empty: `parallel.initialise` fills them.
        use_cpu_initialization=True,
        perform_initialization=False,
        # Megatron's name for "the layer's specification brings an activation module": ours is `layers.gated`, no transformer-engine.
        use_te_activation_func=gated_silu and context.backend == "torch",
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        deallocate_pipeline_outputs=False,
        **RECOMPUTE[context.recompute],
        **context.layout,
    )
