"""Known good neighbours of a component that is tried: a small encoder, projector and language model. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from loongforge_core.component import ComponentSpec, EncoderConfig, ProjectorConfig, Shape

__all__ = ["DECODER", "MODALITY", "NEIGHBOURS", "WIDTH", "PlainEncoderConfig", "PlainProjectorConfig"]

WIDTH = 16
MODALITY = "thing"
"""What the neighbouring encoder encodes."""

HERE = "loongforge_core.testing.conformance"


class PlainEncoderConfig(EncoderConfig):
    """Rows of numbers that lie in any grid: an item's size is its grid."""

    grid: list[int]
    """How the features of a typical item lie."""
    levels: int = 0

    @property
    def feature_size(self) -> int:
        return WIDTH

    @property
    def typical_item_size(self) -> Shape:
        return tuple(self.grid)

    def token_grid(self, size: Shape) -> Shape:
        return size

    @property
    def num_levels(self) -> int:
        return self.levels

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        """Every rank holds all of it, so that a projector behind it can be tried on several."""
        return ()


class PlainProjectorConfig(ProjectorConfig):
    """One linear layer, levels too."""

    @property
    def takes_levels(self) -> bool:
        return True


ENCODER = ComponentSpec(
    kind="encoder",
    name="judges_encoder",
    summary="a linear layer on rows of numbers that lie in any grid",
    modalities=(MODALITY,),
    config=f"{HERE}.neighbours:PlainEncoderConfig",
    model=f"{HERE}.neighbour_modules:PlainEncoder",
)
PROJECTOR = ComponentSpec(
    kind="projector",
    name="judges_projector",
    summary="a linear layer",
    config=f"{HERE}.neighbours:PlainProjectorConfig",
    model=f"{HERE}.neighbour_modules:PlainProjector",
)
BACKBONE = ComponentSpec(
    kind="backbone",
    name="judges_decoder",
    summary="the shared decoder as it is",
    config="loongforge_core.layers.decoder_config:DecoderConfig",
    model="loongforge_core.layers.decoder:Decoder",
)
NEIGHBOURS = (ENCODER, PROJECTOR, BACKBONE)

DECODER = {
    "type": BACKBONE.name,
    "num_layers": 3,
    "hidden_size": WIDTH,
    "ffn_hidden_size": 24,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 101,
    "init_method_std": 0.1,
}
"""Odd vocabulary: it is padded for two tensor ranks."""
