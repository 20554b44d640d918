"""A model of transformers as an encoder: which one, of which sizes, and how files become its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from loongforge_core.component import EncoderConfig, Shape
from loongforge_hf.hf_encoder.architecture import Architecture, Pictures, Sounds, Value
from loongforge_hf.hf_encoder.hearing import AUDIO
from loongforge_hf.hf_encoder.vision import VISION

__all__ = ["ARCHITECTURES", "HOP", "RATE", "WINDOW", "HfEncoderConfig"]

ARCHITECTURES: Mapping[str, Architecture] = {**VISION, **AUDIO}

RATE = 16_000
"""Samples a second, of all audio models in the list."""
WINDOW, HOP = 400, 160
"""Samples of a frame of 25 ms, and from one frame to the next, of those that look at frames."""

Name = Literal[
    *("vit", "deit", "beit", "dinov2", "dinov2_with_registers", "dinov3_vit", "ijepa", "siglip", "convnextv2", "swin"),
    *("wav2vec2", "hubert", "wavlm", "data2vec_audio", "wav2vec2_bert", "ast"),
]
assert get_args(Name) == tuple(ARCHITECTURES)

PICTURES_ONLY = ("image_size", "fit", "resize_to", "resample", "image_mean", "image_std")
SOUNDS_ONLY = ("max_seconds", "normalise")


class HfEncoderConfig(EncoderConfig):
    """A model of transformers, whole on every rank; its features are the last hidden state.

    Nothing is fetched and no code of a folder runs: the class is one of a tested list, built with random weights or read from `pretrained`.
    """

    tiny: ClassVar[Mapping[str, Any]] = {
        "name": "vit",
        "config": {
            **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24},
            **{"image_size": 24, "patch_size": 6},
        },
        "init_method_std": 0.1,
    }

    name: Name
    """Which model; the first ten see images, the rest hear sounds."""
    config: dict[str, Value] = Field(default_factory=dict)
    """Keys of its config.json that differ from the published model's, such as `num_hidden_layers: 24`. Dropout and masking stay off."""
    prefix_tokens: Literal["dropped", "kept"] = "dropped"
    """Whether the outputs of class, distillation and register tokens come before the others. With them, tokens lie in a line."""
    image_size: PositiveInt | None = None
    """Side of the square that every image becomes, in pixels. Default: the model's own, or what its published processor makes."""
    fit: Literal["squash", "crop"] | None = None
    """`squash`: both sides of an image are brought to `resize_to`; `crop`: its shorter side is. Then the square in the middle is cut out.
    Default: as published, like the next four."""
    resize_to: PositiveInt | None = None
    """Length to which a side is brought, in pixels."""
    resample: Literal["bilinear", "bicubic"] | None = None
    image_mean: list[float] | None = None
    image_std: list[PositiveFloat] | None = None
    max_seconds: PositiveFloat | None = None
    """The longest sound that is taken. Default: 30, or what the model's frames hold."""
    normalise: bool | None = None
    """Whether samples are brought to a mean of 0 and a deviation of 1. Default: as published."""
    init_method_std: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _check(self) -> HfEncoderConfig:
        values = self.values  # says what is wrong in `config`
        other = SOUNDS_ONLY if self.architecture.modality == "image" else PICTURES_ONLY
        if wrong := [field for field in other if getattr(self, field) is not None]:
            senses = "sees images" if self.architecture.modality == "image" else "hears sounds"
            raise ValueError(f"{', '.join(wrong)} may not be set: {self.name} {senses}")
        if self.prefix_tokens == "kept" and not self.num_prefix_tokens:
            raise ValueError(f"prefix_tokens may not be 'kept': {self.name} has none")
        if self.architecture.modality == "image":
            self._check_pictures(values)
        else:
            self._check_sounds()
        return self

    def _check_pictures(self, values: Mapping[str, Any]) -> None:
        own = values.get("image_size", self.side)
        if self.side != own and not self.architecture.any_image_size:
            raise ValueError(f"image_size {self.side} is not config.image_size {own}, and {self.name} takes images of one size only")
        self.token_grid(self.fixed_item_size or ())
        for name in ("image_mean", "image_std"):
            if (given := getattr(self, name)) is not None and len(given) != 3:
                raise ValueError(f"{name} has {len(given)} numbers, expected three, of red, green and blue")
        if self.side_before_cut < self.side:
            raise ValueError(f"resize_to {self.resize_to} is less than the side {self.side} of the square that is cut out")

    def _check_sounds(self) -> None:
        if self.normalise is not None and self.sounds.kind != "samples":
            raise ValueError(f"normalise may not be set: {self.name} takes spectrograms, which are always normalised")
        if self.max_seconds is not None and self.sounds.kind == "spectrogram":
            raise ValueError(f"max_seconds may not be set: {self.name} takes as many frames as config.max_length says")
        if self.sounds.kind != "spectrogram":
            self.token_grid(self.largest_item_size("audio") or ())

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.name]

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """Every setting of the model, in the words of its config.json. Raises ValueError for what is wrong in `config`."""
        return self.architecture.values(self.config)

    @property
    def pictures(self) -> Pictures:
        assert isinstance(self.architecture.processor, Pictures)
        return self.architecture.processor

    @property
    def sounds(self) -> Sounds:
        assert isinstance(self.architecture.processor, Sounds)
        return self.architecture.processor

    @property
    def encodes(self) -> Sequence[str]:
        return (self.architecture.modality,)

    # ---------------------------------------------------------------------------------------------------- tokens

    @property
    def feature_size(self) -> int:
        return self.architecture.width(self.values)

    @property
    def num_prefix_tokens(self) -> int:
        return self.architecture.num_prefix_tokens(self.values)

    def token_grid(self, size: Shape) -> Shape:
        """`size` is (rows, columns) of pixels; (samples,), 16,000 a second; or (frames,), of `ast` 10 and of `wav2vec2_bert` 20 ms."""
        grid = self.architecture.grid(self.values, size)
        return grid if self.prefix_tokens == "dropped" else (self.num_prefix_tokens + math.prod(grid),)

    def num_rows(self, size: Shape) -> int:
        """Rows of its inputs that an item of `size` has along the first axis."""
        return 1 if self.architecture.modality == "image" else size[0]

    @property
    def fixed_item_size(self) -> Shape | None:
        if self.architecture.modality == "image":
            return (self.side, self.side)
        return (self.values["max_length"],) if self.sounds.kind == "spectrogram" else None

    @property
    def typical_item_size(self) -> Shape | None:
        return self.fixed_item_size or self.largest_item_size("audio")

    def largest_item_size(self, modality: str) -> Shape | None:
        """That of the longest sound, where sounds are of any length."""
        if self.fixed_item_size is not None:
            return self.fixed_item_size
        samples = self.most_samples
        return (samples,) if self.sounds.kind == "samples" else (max(0, num_frames(samples) // 2),)

    # ------------------------------------------------------------------------------------------------- processing

    @property
    def side(self) -> int:
        """Of the square that every image becomes."""
        if self.image_size is not None:
            return self.image_size
        if self.architecture.any_image_size and "image_size" not in self.config:
            return self.pictures.image_size
        return int(self.values["image_size"])

    @property
    def side_before_cut(self) -> int:
        return self.resize_to or int(self.side / self.pictures.share_kept)

    @property
    def most_samples(self) -> int:
        """Of the longest sound."""
        return int(RATE * (self.max_seconds or 30.0))


def num_frames(samples: int) -> int:
    """Frames of 25 ms that lie in so many samples, 10 ms apart."""
    return (samples - WINDOW) // HOP + 1
