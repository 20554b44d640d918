"""`OmniCombinationModel`: when and how data flows between components. It computes nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron.core.enums import ModelType
from torch import Tensor, nn

from loongforge_core.config.slot_names import FOUNDATION
from loongforge_core.layers.interfaces import Backbone, Component, Features, Recipe
from loongforge_core.layers.packing import PackedRow, packed_row
from loongforge_core.model.batch import Batch
from loongforge_core.model.encoder import OmniEncoderModel

__all__ = ["OmniCombinationModel"]


class OmniCombinationModel(nn.Module):
    """The part of a composition that one pipeline stage holds, as Megatron's schedules, DDP and optimizer take it."""

    def __init__(self, *, encoder: OmniEncoderModel | None, foundation: Backbone[Any] | None, recipe: Recipe[Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.foundation = foundation
        self.recipe = recipe

    # ---- what Megatron asks of a model

    model_type = ModelType.encoder_or_decoder

    @property
    def config(self) -> Any:
        """Megatron's config of the language model."""
        assert self.foundation is not None
        return self.foundation.megatron_config

    @property
    def pre_process(self) -> bool:
        return self.foundation is None or self.foundation.context.stage.pre_process

    @property
    def post_process(self) -> bool:
        return self.foundation is None or self.foundation.context.stage.post_process

    @property
    def vp_stage(self) -> int | None:
        return None if self.foundation is None else self.foundation.context.stage.vp_stage

    @property
    def share_embeddings_and_output_weights(self) -> bool:
        return self.shared_embedding_or_output_weight() is not None

    def shared_embedding_or_output_weight(self) -> Tensor | None:
        return None if self.foundation is None else self.foundation.shared_embedding_or_output_weight()

    def set_input_tensor(self, input_tensor: Tensor | list[Tensor]) -> None:
        assert self.foundation is not None
        self.foundation.set_input_tensor(input_tensor)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None) -> dict[str, Any]:
        described: dict[str, Any] = {}
        for slot, component in self.components().items():
            described.update(component.sharded_state_dict(f"{prefix}{slot}.", sharded_offsets, metadata))
        return described

    # ---- what the rest of core asks

    def components(self) -> Mapping[str, Component[Any]]:
        """Every component of this stage, by slot."""
        found: dict[str, Any] = dict(self.encoder.slots.items()) if self.encoder else {}
        return {**found, FOUNDATION: self.foundation} if self.foundation else found

    def encode(self, batch: Batch) -> dict[str, Features]:
        """Features of each modality's items, as the language model takes them where there is one."""
        assert self.encoder is not None
        return {modality: self.encoder.encode(modality, items) for modality, items in batch.items.items()}

    def forward(self, batch: Batch, *, with_labels: bool = True, encoded: Mapping[str, Features] | None = None) -> Tensor:
        """Loss of every token `[b, s]`, or logits `[b, s, v]` without labels; hidden states before the last stage.

        `encoded` is what `encode` gave for this batch's items: while an answer grows, they are encoded once.
        """
        assert self.foundation is not None
        length = batch.token_ids_bs.shape[1]
        context = self.foundation.context
        if context.sequence_parallel:  # cuts the sequence into equal parts
            batch = batch.padded(context.groups.tp.size())
        hidden_sbh, levels = None, ()
        if self.pre_process:
            if self.encoder is None:
                hidden_sbh = self.foundation.embed(batch.token_ids_bs)
            else:
                decoder_input = self.encoder(batch, self.foundation.embed, encoded)
                hidden_sbh, levels = decoder_input.hidden_sbh, decoder_input.levels
        output: Tensor = self.foundation(
            hidden_sbh,
            batch.position_ids,
            token_ids_bs=batch.token_ids_bs,
            labels_bs=batch.labels_bs if with_labels else None,
            padding_mask_bs=batch.padding_mask_bs,
            packed=row_of(batch),
            levels=levels,
        )
        return output[:, :length] if self.post_process else output


def row_of(batch: Batch) -> PackedRow | None:
    """The packed row as attention takes it; None where every sample has a row of its own."""
    if batch.lengths is None:
        return None
    return packed_row(batch.lengths, total=batch.token_ids_bs.shape[1], device=batch.token_ids_bs.device)
