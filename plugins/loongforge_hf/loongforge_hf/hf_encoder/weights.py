"""A model of transformers on disk: tensor by tensor, under the names that `save_pretrained` gives them.

Folders of its own class are read, and of a class that holds it (a classifier, a model that transcribes): their heads are not. An export
is a folder of its own class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from loongforge_core.weights.config_keys import GENERIC_KEYS, ConfigKey, Constant, Derived, Ignored, Key, Written
from loongforge_core.weights.rules import TENSOR, Copy, Rule
from loongforge_core.weights.table import Table
from loongforge_hf.hf_encoder.architecture import Architecture
from loongforge_hf.hf_encoder.config import HfEncoderConfig
from loongforge_hf.hf_encoder.model import transformers_model

__all__ = ["table"]


def table(config: HfEncoderConfig) -> Table:
    architecture = config.architecture
    with torch.device("meta"):
        model: Any = transformers_model(config)
    return Table(
        rules=tuple(rules(model)),
        keys=tuple(keys(architecture)),
        model_type=architecture.model_type,
        architectures=(architecture.model_class,),
        config_at={architecture.parent: "vision_config"} if architecture.parent else {},
        aliases={f"{model.base_model_prefix}.": "", **architecture.old_names},
        ignored=architecture.tensors_ignored,
        carried=architecture.tensors_carried,
    )


def rules(model: nn.Module) -> Iterator[Rule]:
    """One for every tensor in `save_pretrained`'s files, whose names transformers has beside those in memory."""
    names = list(model.state_dict())
    marks = {name: torch.tensor([number]) for number, name in enumerate(names)}  # of what becomes one tensor, the marks become one
    for theirs, mark in revert_weight_conversion(model, marks).items():
        ours = tuple(f"model.{names[number]}" for number in mark.tolist())
        yield Copy(theirs, ours, parts=TENSOR) if len(ours) == 1 else InOne(theirs, ours, parts=TENSOR)


@dataclass(frozen=True)
class InOne(Rule):
    """Tensors of ours, equally high, that lie one below another in one on disk, as those of a gated MLP's first layer do."""

    moves_rows: ClassVar[bool] = True

    def join(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        return theirs[0].chunk(len(self.ours))

    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return [torch.cat(list(ours))]


def keys(architecture: Architecture) -> Iterator[ConfigKey]:
    """Of config.json."""
    assumed = getattr(transformers, architecture.config_class)().to_dict()
    for name in architecture.settings:
        yield Key(name, f"config.{name}", assumed[name], effective=f"values.{name}")
    for name, value in architecture.neutral.items():
        yield Written(name, partial(always, value))
    for name, value in architecture.required.items():
        yield Constant(name, value, assumed[name])
    for name, value in architecture.derived.items():
        yield Derived(name, partial(of_values, value))
    if architecture.ignored:
        yield Ignored(architecture.ignored, "of pretraining, of heads, or of the class that makes several maps of features")
    yield GENERIC_KEYS


def always(value: Any, config: Any) -> Any:
    return value


def of_values(value: Any, config: Any) -> Any:
    return value(config.values)
