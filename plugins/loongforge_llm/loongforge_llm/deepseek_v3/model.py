"""DeepSeek-V3 (arXiv:2412.19437): the shared decoder. Reference: `transformers.DeepseekV3ForCausalLM`.

Left out: multi-token prediction. Its layers are carried through import and export, never run and never trained.
"""

from __future__ import annotations

from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.transformer.spec_utils import build_module
from torch import nn

from loongforge_core.layers.decoder import Decoder, unused_init, vocabulary_embedding
from loongforge_core.layers.interfaces import BuildContext
from loongforge_core.layers.norms import RMSNorm
from loongforge_core.layers.specs import decoder_layer_specs
from loongforge_llm.deepseek_v3.config import DeepseekV3Config

__all__ = ["DeepseekV3Model"]

VOCABULARY = ("embedding.weight", "output_layer.weight")


class DeepseekV3Model(Decoder):
    """The last pipeline stage carries the prediction layers."""

    def __init__(self, config: DeepseekV3Config, context: BuildContext) -> None:
        super().__init__(config, context)
        if config.mtp_num_layers and context.stage.post_process:
            self.mtp = nn.ModuleList(self.prediction_layer() for _ in range(config.mtp_num_layers))
            self.mtp.requires_grad_(False)

    def prediction_layer(self) -> nn.ModuleDict:
        """In Megatron's words, with the copies of embedding table and output layer that published folders have in each."""
        config, megatron, groups = self.config, self.megatron_config, self.context.groups
        (layer,) = decoder_layer_specs(megatron, self.context.backend, [config.num_layers - 1])
        rows = self.context.padded_vocab_size or config.vocab_size
        return nn.ModuleDict(
            {
                "embedding": vocabulary_embedding(rows, megatron, groups.tp),
                "enorm": RMSNorm(megatron, config.hidden_size),
                "hnorm": RMSNorm(megatron, config.hidden_size),
                "eh_proj": nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False),
                "transformer_layer": build_module(layer, config=megatron, layer_number=1, pg_collection=groups),
                "final_layernorm": RMSNorm(megatron, config.hidden_size),
                "output_layer": ColumnParallelLinear(
                    config.hidden_size, rows, config=megatron, init_method=unused_init, bias=False, tp_group=groups.tp
                ),
            }
        )

    def published_rows(self, name: str) -> int | None:
        is_copy = name.startswith("mtp.") and name.endswith(VOCABULARY)
        return self.config.vocab_size if is_copy else super().published_rows(name)
