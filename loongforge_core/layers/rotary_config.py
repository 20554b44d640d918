"""How rotary positions are stretched beyond the length that a model was first trained on. Imports no torch.

Each type computes what `transformers.modeling_rope_utils` computes for the type of the same name.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

__all__ = ["DynamicRotaryScaling", "LinearRotaryScaling", "Llama3RotaryScaling", "RotaryScaling", "YarnRotaryScaling"]


class Scaling(BaseModel):
    """What all types have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    factor: Annotated[float, Field(ge=1.0)]
    """How many times as long."""

    def longest(self, max_position_embeddings: int) -> int | None:
        """The longest sequence, for a model that states `max_position_embeddings`; None: no limit is known."""
        return max_position_embeddings


class LinearRotaryScaling(Scaling):
    """Every frequency is divided by `factor` (Chen et al. 2023, arXiv:2306.15595)."""

    type: Literal["linear"] = "linear"


class DynamicRotaryScaling(Scaling):
    """A larger base for sequences longer than `max_position_embeddings`, and none for shorter ones (dynamic NTK).

    The base follows from the longest sequence of the run, `train.seq_length`, and not from what happens to be in a batch: otherwise a
    sample's loss would depend on its neighbours. A run within `max_position_embeddings` is not scaled at all. In a longer one all samples
    are computed with the base that the published model has for its longest sequence, the short ones too, which alone it would not scale.
    """

    type: Literal["dynamic"] = "dynamic"

    def longest(self, max_position_embeddings: int) -> int | None:
        return None

    def base(self, base: float, head_size: int, lengthened: float) -> float:
        """The base for sequences `lengthened` times as long as `max_position_embeddings`."""
        return base * ((self.factor * lengthened) - (self.factor - 1)) ** (head_size / (head_size - 2)) if lengthened > 1 else base


class Llama3RotaryScaling(Scaling):
    """Llama 3.1's: low frequencies are divided by `factor`, high ones kept, those between are blended."""

    type: Literal["llama3"] = "llama3"
    factor: Annotated[float, Field(ge=1.0)] = 8.0
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    original_max_position_embeddings: PositiveInt = 8192
    """Positions that the model saw before its context was lengthened."""


class YarnRotaryScaling(Scaling):
    """YaRN (Peng et al. 2023, arXiv:2309.00071): frequencies that turn often are kept, slow ones divided by `factor`, and cosines and
    sines grow a little, which sharpens attention."""

    type: Literal["yarn"] = "yarn"
    original_max_position_embeddings: PositiveInt
    """Positions that the model saw before its context was lengthened."""
    beta_fast: PositiveFloat = 32.0
    """Turns over the original positions from which on a frequency is kept."""
    beta_slow: PositiveFloat = 1.0
    """Turns up to which a frequency is divided."""
    truncate: bool = True
    """Whether the frequencies where these two lie are rounded outwards."""
    attention_factor: PositiveFloat | None = None
    """Multiplies cosines and sines; default: from `factor`, and from the two below where both are given."""
    mscale: PositiveFloat | None = None
    mscale_all_dim: PositiveFloat | None = None

    def longest(self, max_position_embeddings: int) -> int | None:
        # Qwen's model cards add the scaling to config.json and leave max_position_embeddings what it was.
        return max(max_position_embeddings, int(self.factor * self.original_max_position_embeddings))

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self.growth(self.mscale) / self.growth(self.mscale_all_dim)
        return self.growth(1.0)

    def growth(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1.0


RotaryScaling = Annotated[LinearRotaryScaling | DynamicRotaryScaling | Llama3RotaryScaling | YarnRotaryScaling, Field(discriminator="type")]
