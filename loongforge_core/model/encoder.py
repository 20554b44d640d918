"""`OmniEncoderModel`: everything in front of the language model's first layer.

Shapes: s sequence, b batch, h width, N tokens of all items of a modality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from loongforge_core.component import Shape
from loongforge_core.config.slot_names import encoder_slot, projector_slot
from loongforge_core.errors import PluginError
from loongforge_core.layers.interfaces import Component, Features, Items
from loongforge_core.model.batch import Batch
from loongforge_core.model.merge import merge, scatter_level, with_zero_gradients
from loongforge_core.parallel.global_state import run_in_groups

__all__ = ["DecoderInput", "OmniEncoderModel"]


@dataclass(frozen=True)
class DecoderInput:
    """What the first decoder layer takes."""

    hidden_sbh: Tensor
    levels: tuple[Tensor, ...] = ()
    """Level i, `[s, b, h]`, is added to the output of decoder layer i."""


class OmniEncoderModel(nn.Module):
    """Encoders and projectors by slot. The text embedding is the backbone's: tokens are looked up through it."""

    def __init__(self, components: Mapping[str, Component[Any]], encoded_by: Mapping[str, str]) -> None:
        """`encoded_by`: each modality, with the one after which its encoder's slot is named."""
        super().__init__()
        self.slots = nn.ModuleDict(components)
        self.encoded_by = dict(encoded_by)

    def components(self, modality: str) -> list[Component[Any]]:
        """The modality's encoder and, where there is one, its projector."""
        own = self.encoded_by[modality]
        names = (encoder_slot(own), projector_slot(own))
        return [cast(Component[Any], self.slots[name]) for name in names if name in self.slots]

    def encode(self, modality: str, items: Items) -> Features:
        """Features of a modality's items, projected where the composition has a projector."""
        value: Items | Features = items
        for component in self.components(modality):
            value = in_own_groups(component, value)
        assert isinstance(value, Features)
        return value

    def forward(self, batch: Batch, embed: Callable[[Tensor], Tensor], encoded: Mapping[str, Features] | None = None) -> DecoderInput:
        """Embeds the tokens with `embed`, `[b, s]` -> `[s, b, h]`, and puts each item's embeddings where its placeholders stand.

        `encoded` has each modality's features where they are known already, as while an answer grows.
        """
        hidden_sbh = embed(batch.token_ids_bs.clamp(min=0))
        levels: list[Tensor] = []
        busy = {self.encoded_by[modality] for modality in batch.items}
        for idle in [own for own in dict.fromkeys(self.encoded_by.values()) if own not in busy]:
            absent = (parameter for component in self.components(idle) for parameter in component.parameters())
            hidden_sbh = with_zero_gradients(hidden_sbh, absent)
        for modality in [modality for modality in self.encoded_by if modality in batch.items]:
            features = encoded[modality] if encoded else self.encode(modality, batch.items[modality])
            placement = batch.placements[modality]
            check_rows(modality, features, len(placement.position_N))
            hidden_sbh = merge(hidden_sbh, features.hidden_NW, placement)
            for index, level_Nh in enumerate(features.levels):
                level_sbh = scatter_level(level_Nh, placement, hidden_sbh)
                if index < len(levels):
                    levels[index] = levels[index] + level_sbh
                else:
                    levels.append(level_sbh)
        return DecoderInput(hidden_sbh, tuple(levels))


def check_rows(modality: str, features: Features, expected: int) -> None:
    """Raises PluginError where an encoder does not emit what its config says that it does: places are counted by that."""
    for what, tensor in (("features", features.hidden_NW), *((f"level {index}", level) for index, level in enumerate(features.levels))):
        if len(tensor) != expected:
            raise PluginError(
                f"the encoder of {modality} and what follows it gave {len(tensor)} rows of {what} for the {expected} places that "
                "`token_grid` and `num_tokens` of their configs say"
            )


def in_own_groups(component: Component[Any], value: Items | Features) -> Features:
    """What the component makes of its input, whatever it asks Megatron's global state for meanwhile."""
    grids: tuple[Shape, ...] = ()

    def run(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        nonlocal grids
        features: Features = component(with_tensors(value, tensors))
        grids = features.grids
        return features.hidden_NW, *features.levels

    given = tuple(value.inputs.values()) if isinstance(value, Items) else (value.hidden_NW, *value.levels)
    hidden_NW, *levels = run_in_groups(run, given, tuple(component.parameters()), component.context.groups)
    return Features(hidden_NW, grids, tuple(levels))


def with_tensors(value: Items | Features, tensors: Sequence[Tensor]) -> Items | Features:
    if isinstance(value, Items):
        return Items(dict(zip(value.inputs, tensors, strict=True)), value.sizes)
    return Features(tensors[0], value.grids, tuple(tensors[1:]))
