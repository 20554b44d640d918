"""The modules of the judge's encoder and projector.

Shapes: N rows of all items, W width.
"""

from __future__ import annotations

from torch import nn

from loongforge_core.component import InitialValues
from loongforge_core.layers.interfaces import BuildContext, Encoder, Features, Items, Projector
from loongforge_core.testing.conformance.neighbours import WIDTH, PlainEncoderConfig, PlainProjectorConfig

__all__ = ["PlainEncoder", "PlainProjector"]

STD = 0.2


class PlainEncoder(Encoder[PlainEncoderConfig]):
    """`values` `[N, W]`."""

    def __init__(self, config: PlainEncoderConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.features = nn.Linear(WIDTH, WIDTH)
        self.earlier = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(config.levels))

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(STD)

    def forward(self, items: Items) -> Features:
        values_NW = items.inputs["values"].to(self.features.weight.dtype)
        return Features(self.features(values_NW), items.sizes, tuple(level(values_NW) for level in self.earlier))


class PlainProjector(Projector[PlainProjectorConfig]):
    """The same layer for features and levels."""

    def __init__(self, config: PlainProjectorConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.linear = nn.Linear(config.input_size, config.hidden_size)

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(STD)

    def forward(self, features: Features) -> Features:
        return Features(self.linear(features.hidden_NW), features.grids, tuple(map(self.linear, features.levels)))
