"""What a plugin announces: its components and data sets, in strings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["API_VERSION", "SUPPORTED_API_VERSIONS", "ComponentSpec", "DatasetSpec", "Kind"]

API_VERSION = 1
"""Version of `loongforge_core.component`. A plugin states the one it was written for."""

SUPPORTED_API_VERSIONS = range(1, 2)

Kind = Literal["encoder", "projector", "backbone", "recipe"]


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """One component as its plugin announces it. Light: strings only, nothing is imported."""

    kind: Kind
    name: str
    """What YAML calls it: `type: NAME` in a slot, `model_type: NAME` for a recipe."""
    summary: str
    """One line for `loongforge list`."""
    config: str
    model: str = ""
    """Empty for a recipe, whose config is all there is of it outside its weights and loss."""
    weights: str = ""
    """Empty: the component has no published format, and its weights travel under their own names."""
    processor: str = ""
    modalities: tuple[str, ...] = ()
    """Encoders: what they encode. Any name; a slot `<modality>_encoder` takes an encoder that lists its modality."""
    reference: str = ""
    """The class that it equals, such as `transformers.SiglipVisionModel`."""
    paper: str = ""
    left_out: str = ""
    """What the reference has and this component has not, in a few words."""
    api_version: int = API_VERSION


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set that a plugin can write out, selected by `data.prepare: NAME`."""

    name: str
    summary: str
    prepare: str
    """`package.module:function`. The function takes the folder that `data.path` lies in, a Path, and writes the files there that the
    composition names in `data`. It is called before every run, so it does nothing where its files are complete already."""
    api_version: int = API_VERSION
