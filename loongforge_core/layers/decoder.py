"""The decoder that all families share, dense and with experts: embedding, Megatron's TransformerBlock, output layer, loss.

`GPTModel` is not used: it is deprecated from Megatron-Core 0.19, and levels, M-RoPE and the vocabulary mask would each override it.
Reference: `transformers.Qwen2ForCausalLM`, `LlamaForCausalLM`, `Qwen3MoeForCausalLM`, `DeepseekV3ForCausalLM`. Left out: dropout, key-value
cache.

Shapes: s sequence, b batch, h width, v this rank's part of the vocabulary, l levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    VocabParallelEmbedding,
    gather_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import TransformerBlock, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor, nn

from loongforge_core.component import InitialValues
from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.layers.experts import sequence_members
from loongforge_core.layers.interfaces import Backbone, BuildContext
from loongforge_core.layers.levels import pack_levels, unpack_levels
from loongforge_core.layers.loss import mask_padded_vocabulary, token_losses
from loongforge_core.layers.rotary import RotaryAngles
from loongforge_core.layers.specs import block_spec, decoder_layer_specs
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_core.parallel.bookkeeping import describe_copy

if TYPE_CHECKING:
    from megatron.core.packed_seq_params import PackedSeqParams

__all__ = ["Decoder"]

EMBEDDING = "embedding.word_embeddings.weight"


def unused_init(_: Tensor) -> None:
    """Megatron's layers ask for one; `parallel.initialise` fills all parameters."""


class Decoder(Backbone[DecoderConfig]):
    """One pipeline stage of a decoder, or all of it."""

    def __init__(self, config: DecoderConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.megatron_config = transformer_config(config, context)
        stage, groups = context.stage, context.groups
        self.tied = not config.untie_embeddings_and_output_weights
        rows = context.padded_vocab_size or config.vocab_size
        if stage.pre_process:
            self.embedding = nn.ModuleDict({"word_embeddings": vocabulary_embedding(rows, self.megatron_config, groups.tp)})
        first = get_transformer_layer_offset(self.megatron_config, stage.vp_stage, groups.pp.rank())
        numbers = range(first, first + get_num_layers_to_build(self.megatron_config, stage.vp_stage, groups.pp.rank()))
        layers = decoder_layer_specs(self.megatron_config, context.backend, numbers)
        self.decoder = TransformerBlock(
            config=self.megatron_config,
            spec=block_spec(self.megatron_config, context.backend, layers),
            pre_process=stage.pre_process,
            post_process=stage.post_process,
            pg_collection=groups,
            vp_stage=stage.vp_stage,
        )
        for index, layer in enumerate(self.decoder.layers):
            layer.level = index
        self.received: Tensor | None = None
        self.rotary = RotaryAngles.of(config, context.max_sequence_length)
        if stage.post_process:
            self.output_layer = ColumnParallelLinear(
                config.hidden_size,
                rows,
                config=self.megatron_config,
                init_method=unused_init,
                bias=False,
                skip_weight_param_allocation=self.tied and stage.pre_process,
                tp_group=groups.tp,
            )
        if (
            self.tied
            and not (stage.pre_process and stage.post_process)
            and (shared := self.shared_embedding_or_output_weight()) is not None
        ):
            shared.shared_embedding = True  # type: ignore[attr-defined]

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def published_rows(self, name: str) -> int | None:
        return self.config.vocab_size if name in (EMBEDDING, "output_layer.weight") else None

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        described = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        if self.tied and self.context.stage.post_process and not self.context.stage.pre_process:
            describe_copy(described, f"{prefix}output_layer.weight", f"{prefix}{EMBEDDING}")
        return described

    def shared_embedding_or_output_weight(self) -> Tensor | None:
        if not self.tied:
            return None
        weight: Tensor | None = None
        if self.context.stage.pre_process:
            weight = self.word_embeddings.weight
        elif self.context.stage.post_process:
            weight = self.output_layer.weight
        return weight

    @property
    def word_embeddings(self) -> VocabParallelEmbedding:
        return self.embedding["word_embeddings"]

    def embed(self, input_ids_bs: Tensor) -> Tensor:
        embedded_bsh: Tensor = self.word_embeddings(input_ids_bs)
        return embedded_bsh.transpose(0, 1).contiguous()

    def set_input_tensor(self, input_tensor: Tensor | list[Tensor]) -> None:
        self.received = input_tensor[0] if isinstance(input_tensor, list) else input_tensor

    def forward(
        self,
        decoder_input_sbh: Tensor | None,
        position_ids: Tensor,
        *,
        token_ids_bs: Tensor,
        labels_bs: Tensor | None = None,
        padding_mask_bs: Tensor | None = None,
        packed: PackedSeqParams | None = None,
        levels: Sequence[Tensor] = (),
    ) -> Tensor:
        if self.context.sequence_parallel:
            group = self.context.groups.tp
            levels = [scatter_to_sequence_parallel_region(level_sbh, group=group) for level_sbh in levels]
            if decoder_input_sbh is not None:
                decoder_input_sbh = scatter_to_sequence_parallel_region(decoder_input_sbh, group=group)
        if not self.context.stage.pre_process:
            levels = self.receive(token_ids_bs.shape[1])
        levels_lsbh = torch.stack(tuple(levels)) if levels else None
        # DeepSeek's own code turns the few numbers that turn in float32, whatever the others are.
        precision = torch.float32 if self.megatron_config.multi_latent_attention else self.context.dtype
        hidden_sbh: Tensor = self.decoder(
            hidden_states=decoder_input_sbh,
            attention_mask=None,
            context=levels_lsbh,
            rotary_pos_emb=self.rotary(position_ids, precision),
            packed_seq_params=packed,
            padding_mask=self.sequences(token_ids_bs, padding_mask_bs, packed),
        )
        if not self.context.stage.post_process:
            return pack_levels(hidden_sbh, levels[len(self.decoder.layers) :])
        logits_sbv = self.logits(hidden_sbh)
        if labels_bs is None:
            whole_sbv: Tensor = gather_from_tensor_model_parallel_region(logits_sbv, group=self.context.groups.tp)
            return whole_sbv.transpose(0, 1)
        return token_losses(logits_sbv.to(self.context.cross_entropy_dtype), labels_bs, self.context.groups.tp)

    def sequences(self, token_ids_bs: Tensor, padding_mask_bs: Tensor | None, packed: PackedSeqParams | None) -> Tensor | None:
        """Which tokens belong to which sequence, for routers that are trained to balance experts."""
        config = self.megatron_config
        balances = config.moe_aux_loss_coeff > 0 or config.moe_router_enable_expert_bias
        if config.num_moe_experts is None or not (balances and self.training):
            return None
        together = config.moe_router_load_balancing_type == "aux_loss"
        return sequence_members(token_ids_bs, padding_mask_bs, packed, together=together)

    def receive(self, length: int) -> tuple[Tensor, ...]:
        """Takes the previous stage's hidden states, of samples so many tokens long; the levels that came with them."""
        assert self.received is not None
        rows = length // self.context.groups.tp.size() if self.context.sequence_parallel else length
        hidden_sbh, levels = unpack_levels(self.received, rows)
        self.decoder.set_input_tensor(hidden_sbh)
        self.received = None
        return levels

    def logits(self, hidden_sbh: Tensor) -> Tensor:
        """This rank's part, `[s, b, v]`; rows beyond the vocabulary count as minus infinity."""
        weight = self.shared_embedding_or_output_weight() if self.tied else None
        logits_sbv, _ = self.output_layer(hidden_sbh, weight=weight)
        first_row = self.context.groups.tp.rank() * logits_sbv.shape[-1]
        return mask_padded_vocabulary(logits_sbv, self.config.vocab_size, first_row)


def vocabulary_embedding(rows: int, config: TransformerConfig, group: torch.distributed.ProcessGroup) -> VocabParallelEmbedding:
    return VocabParallelEmbedding(rows, config.hidden_size, init_method=unused_init, config=config, tp_group=group)
