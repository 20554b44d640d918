"""Configs and processors of the planted components: they import no torch, as those of a plugin may not."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from loongforge_core import Augmentation, DataError, EncoderConfig, ProcessedItem, Processor, ProjectorConfig, Shape
from loongforge_core.component import indivisible
from loongforge_core.layers.decoder_config import DecoderConfig

# --------------------------------------------------------------------------------------------------------------- encoders


class StripConfig(EncoderConfig):
    """Patches of a row of numbers, learned positions, a few gated layers."""

    tiny = {"hidden_size": 16}

    hidden_size: PositiveInt = 64
    num_layers: PositiveInt = 2
    patch_size: PositiveInt = 4
    """Values of a token; the last patch of an item is filled up with zeros."""

    @property
    def feature_size(self) -> int:
        return self.hidden_size

    def token_grid(self, size: Shape) -> Shape:
        return (-(-size[0] // self.patch_size),)


class WindowsConfig(StripConfig):
    """Overlapping windows of seven values, four apart; values behind the last whole window are not seen."""

    kernel_size: PositiveInt = 7

    def token_grid(self, size: Shape) -> Shape:
        """A row that is shorter than a window is filled up to one."""
        return ((max(size[0], self.kernel_size) - self.kernel_size) // self.patch_size + 1,)


class ShortWindowsConfig(WindowsConfig):
    """BUG token_counts: the textbook's formula, which knows nothing of the row that the module fills up."""

    def token_grid(self, size: Shape) -> Shape:
        return ((size[0] - self.kernel_size) // self.patch_size + 1,)


class SplitConfig(StripConfig):
    """Its layers are Megatron's parallel ones, with a norm between them."""

    ffn_hidden_size: PositiveInt = 32

    def tensor_parallel_conflicts(self, size: int) -> Sequence[str]:
        return indivisible(size, ffn_hidden_size=self.ffn_hidden_size)

    def transformer_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size,
            "num_attention_heads": 4,
            "normalization": "LayerNorm",
            "layernorm_epsilon": 1e-5,
            "activation": "gelu",
            "add_bias_linear": True,
        }


class StripProcessor(Processor[StripConfig]):
    """A `.npy` file of one row -> `values` float32; the size is (length,)."""

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        values = self.read(path)
        if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
            raise DataError(f"{path}: expected one row of finite numbers, got shape {values.shape}")
        return ProcessedItem({"values": self.prepared(values, path).astype(np.float32)}, (len(values),))

    def read(self, path: Path) -> np.ndarray:
        try:
            values: np.ndarray = np.load(path, allow_pickle=False)
            return values.astype(np.float64, casting="same_kind")
        except (OSError, EOFError, ValueError, TypeError) as error:
            raise DataError(f"{path}: cannot read this row of numbers: {error}") from error

    def prepared(self, values: np.ndarray, path: Path) -> np.ndarray:
        return (values - values.mean()) / max(float(values.std()), 1e-6)


class DitherProcessor(StripProcessor):
    """A little noise, so that no value is exactly zero: always the same for the same row."""

    def prepared(self, values: np.ndarray, path: Path) -> np.ndarray:
        noise = np.random.default_rng(self.noise_seed(values, path)).normal(0.0, 1e-3, values.shape)
        return super().prepared(values, path) + noise

    def noise_seed(self, values: np.ndarray, path: Path) -> int:
        return zlib.crc32(values.tobytes())


class HashedDitherProcessor(DitherProcessor):
    """BUG processor: Python's hash of a string is another one in every process, so that each data worker makes its own noise."""

    def noise_seed(self, values: np.ndarray, path: Path) -> int:
        return hash(path.name) % 2**32


# ------------------------------------------------------------------------------------------------------------- projectors


class ThriftyConfig(ProjectorConfig):
    """Linear, GELU, linear; the GELU keeps one tensor for its backward pass."""


class BlocksConfig(ProjectorConfig):
    """Two by two neighbours become one token; levels too, each with a layer of its own."""

    @property
    def takes_levels(self) -> bool:
        return True

    def token_grid(self, grid: Shape) -> Shape:
        if len(grid) < 2 or grid[-2] % 2 or grid[-1] % 2:
            raise ValueError(f"features that lie {' x '.join(map(str, grid))} cannot be merged in blocks of 2 x 2")
        return (*grid[:-2], grid[-2] // 2, grid[-1] // 2)


# -------------------------------------------------------------------------------------------------------------- backbones


class CappedConfig(DecoderConfig):
    """Logits go through a hyperbolic tangent, as Gemma 2's do."""

    tiny = {**DecoderConfig.tiny, "final_logit_softcapping": 3.0}

    final_logit_softcapping: PositiveFloat = 30.0


class ScaledNormsConfig(DecoderConfig):
    """The norms of layer l are scaled by 1 / sqrt(l) (Sun et al. 2025, arXiv:2502.05795)."""
