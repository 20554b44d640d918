"""A third party's projector that fails, in a way and on a rank of one's choice, in a forward pass of one's choice."""

from __future__ import annotations

from typing import Literal

from loongforge_projectors.mlp.config import MlpConfig

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl

FAULTY = ComponentSpec(
    kind="projector",
    name="faulty",
    summary="fails",
    config="faulty_plugin:FaultyConfig",
    model="faulty_model:FaultyProjector",
    weights="loongforge_projectors.mlp.weights:table",
)


class FaultyConfig(MlpConfig):
    fault: Literal["none", "raises", "data", "killed", "crashes", "exits", "waits"] = "none"
    on_rank: int = 1
    at_pass: int = 2
    folder: str = ""
    """Where ranks that wait leave their process ids."""
    wait_s: float = 120


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [FAULTY]
