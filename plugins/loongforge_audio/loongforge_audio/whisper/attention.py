"""Self-attention whose queries and values have a bias and whose keys have none, as Whisper's.

A bias of the keys would add one number to all scores of a query, which the softmax takes away again: its gradient is nothing but rounding,
along which Adam would walk. So the fused projection has no bias, and the two biases that there are are parameters of their own:
nothing has to be held at zero, and the parameters are as many as are published.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer import ModuleSpec
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import nn

from loongforge_core.component import Backend
from loongforge_core.layers.attention import RotarySelfAttention
from loongforge_core.layers.linear import without_bias
from loongforge_core.layers.specs import layer_spec

__all__ = ["KeysWithoutBias", "whisper_layer"]

BIASES = ("query_bias", "value_bias")


class KeysWithoutBias(RotarySelfAttention):
    """Megatron's self-attention; its tensor ranks hold their heads' part of both biases."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        width = self.num_attention_heads_per_partition * self.hidden_size_per_attention_head
        for name in BIASES:
            self.register_parameter(name, nn.Parameter(torch.empty(width, dtype=self.config.params_dtype)))

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
        query, key, value, *rest = super().get_query_key_value_tensors(*args, **kwargs)  # [s, b, n, d]
        heads = query.shape[-2:]
        return query + self.query_bias.view(heads), key, value + self.value_bias.view(heads), *rest

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None) -> dict[str, Any]:
        described: dict[str, Any] = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        own = make_sharded_tensors_for_checkpoint(
            {name: getattr(self, name) for name in BIASES},
            prefix,
            dict.fromkeys(BIASES, 0),
            sharded_offsets,
            tp_group=self.pg_collection.tp,
            dp_cp_group=metadata["dp_cp_group"],
        )
        return {**described, **own}


def whisper_layer(config: Any, backend: Backend) -> ModuleSpec:
    """One layer of the encoder. `config` is Megatron's TransformerConfig."""
    layer = layer_spec(config, backend, mask=AttnMaskType.no_mask)
    attention = layer.submodules.self_attention
    attention.module = KeysWithoutBias
    attention.submodules.linear_qkv = without_bias(attention.submodules.linear_qkv)
    return layer
