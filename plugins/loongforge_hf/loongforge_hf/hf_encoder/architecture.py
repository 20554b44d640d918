"""What must be known of a model of transformers to use it as an encoder, without importing it.

Importing a config class of transformers imports torch, which data workers and `validate` do without; so what counts tokens is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from loongforge_core.component import Shape
from loongforge_core.errors import near_match

__all__ = ["ACTIVATIONS", "KEY_BIAS", "Architecture", "Pictures", "Sounds", "Value", "Values"]

Value = bool | int | float | str | list[int]
Values = Mapping[str, Any]

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "hidden_act": ACTIVATIONS,
    "feat_extract_activation": ACTIVATIONS,
    "feat_extract_norm": ("group", "layer"),
}
KEY_BIAS = {"model.*.k_proj.bias": "adds the same to all that a query is compared with: its gradient is nothing but rounding"}
"""Tensors carried where positions do not turn keys. Adam would make steps of what is rounding, which no two layouts have alike."""
MAY_BE_ZERO = frozenset({"num_register_tokens", "layer_scale_init_value"})


@dataclass(frozen=True)
class Pictures:
    """How the published processor makes a square of a picture."""

    image_size: int
    fit: Literal["squash", "crop"] = "squash"
    """`squash`: both sides are brought to one length; `crop`: the shorter side is. Then the square in the middle is cut out."""
    share_kept: float = 1.0
    """The square's side, as a share of the length to which the picture is brought before."""
    resample: Literal["bilinear", "bicubic"] = "bicubic"
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Sounds:
    """How the published processor makes numbers of a sound: its samples, or the powers of its frequencies in frames of 10 ms."""

    kind: Literal["samples", "spectrogram", "paired spectrogram"]
    normalise: bool = True
    """Samples: to a mean of 0 and a deviation of 1. A spectrogram always is."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One model of transformers, in the words of its config.json."""

    model_class: str
    config_class: str
    model_type: str
    published: str
    """Whose sizes the defaults are."""
    settings: Mapping[str, Value]
    """Keys that `config` may set, with the values of the published model."""
    neutral: Mapping[str, Any]
    """Keys by which training differs from evaluation: what they are here, whatever a folder says (I1)."""
    required: Mapping[str, Any] = field(default_factory=dict)
    """Keys that may have one value only."""
    derived: Mapping[str, Callable[[Values], Any]] = field(default_factory=dict)
    """Keys that follow from `settings`."""
    ignored: tuple[str, ...] = ()
    """Keys that the features do not depend on."""
    tensors_ignored: Mapping[str, str] = field(default_factory=dict)
    """Tensors in folders that are not read, by glob pattern, with the reason."""
    tensors_carried: Mapping[str, str] = field(default_factory=dict)
    """Tensors that are read and written, and that no feature depends on."""
    parent: str = ""
    """The `model_type` of folders that hold more than this, which their config.json describes under `vision_config`."""
    old_names: Mapping[str, str] = field(default_factory=dict)
    """Names, or beginnings of them, that published tensors once had -> those of now."""
    input_name: str
    layers: str
    """Regular expression for the names of the modules that are recomputed one by one."""
    width: Callable[[Values], int] = lambda values: int(values["hidden_size"])
    grid: Callable[[Values, Shape], Shape]
    """How the features of an item lie, prefix tokens apart. Raises ValueError for an item that is too small."""
    num_prefix_tokens: Callable[[Values], int] = lambda values: 0
    """Class, distillation and register tokens, which stand before the rest."""
    any_image_size: bool = False
    """Whether pictures of another size than the config's `image_size` fit."""
    problem: Callable[[Values], str] = lambda values: ""
    """What does not fit together; empty: nothing."""
    processor: Pictures | Sounds

    @property
    def modality(self) -> str:
        return "image" if isinstance(self.processor, Pictures) else "audio"

    def values(self, given: Values) -> dict[str, Any]:
        """The published settings, with those that are given in their places. Raises ValueError for one that is wrong."""
        problems = [problem for key, value in given.items() if (problem := self._wrong(key, value))]
        if not problems:
            merged = {**self.settings, **given}
            problems = [problem] if (problem := self.problem(merged)) else []
        if problems:
            raise ValueError("; ".join(problems))
        return merged

    def _wrong(self, key: str, value: Any) -> str:
        known = self.settings.get(key)
        if known is None:
            why = self._not_to_be_set(key)
            return f"config.{key} {why or f'is no setting of this model{near_match(key, self.settings)}'}"
        if key in CHOICES:
            return "" if value in CHOICES[key] else f"config.{key} is {value!r}, expected {' or '.join(map(repr, CHOICES[key]))}"
        if isinstance(known, bool):
            return "" if isinstance(value, bool) else f"config.{key} is {value!r}, expected true or false"
        if isinstance(known, list):
            right = isinstance(value, list) and value and all(is_number(each, int) and each > 0 for each in value)
            return "" if right else f"config.{key} is {value!r}, expected a list of whole numbers above 0"
        kind, name = (int, "a whole number") if isinstance(known, int) else (float, "a number")
        least = "from 0 on" if key in MAY_BE_ZERO else "above 0"
        right = is_number(value, kind) and (value > 0 or (value == 0 and key in MAY_BE_ZERO))
        return "" if right else f"config.{key} is {value!r}, expected {name} {least}"

    def _not_to_be_set(self, key: str) -> str:
        """Why a key that transformers knows may not be set; empty for others."""
        if key in self.neutral:
            return f"is always {self.neutral[key]!r} here: training and evaluation compute the same, in every layout"
        if key in self.required:
            return f"is always {self.required[key]!r} here"
        if key in self.derived:
            return "follows from other settings"
        return "changes no feature" if key in self.ignored else ""


def is_number(value: Any, kind: type) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or (kind is float and isinstance(value, float)))


def not_a_multiple(values: Values, pairs: Iterable[tuple[str, str]]) -> str:
    """Of the first pair of settings of which the one must be a multiple of the other and is not; empty: all are."""
    for whole, part in pairs:
        if values[whole] % values[part]:
            return f"config.{whole} {values[whole]} is not a multiple of {part} {values[part]}"
    return ""


def unequal_lengths(values: Values, *keys: str) -> str:
    lengths = {key: len(values[key]) for key in keys}
    if len(set(lengths.values())) == 1:
        return ""
    return f"config's lists must be equally long: {', '.join(f'{key} has {length}' for key, length in lengths.items())}"
