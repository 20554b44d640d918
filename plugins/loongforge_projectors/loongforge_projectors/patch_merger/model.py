"""Qwen's patch merger (Wang et al. 2024, arXiv:2409.12191): a block of neighbouring features becomes one token.

Reference: `Qwen2_5_VLPatchMerger` and `Qwen3VLVisionPatchMerger` of transformers, parts of its vision towers. Features come row by row,
from any encoder whose grid divides into blocks; tokens leave row by row too.

Shapes: N features of all items, W their width, M tokens, m features of a block.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from loongforge_core.component import InitialValues
from loongforge_core.errors import PluginError
from loongforge_core.layers.interfaces import BuildContext, Features, Projector
from loongforge_core.layers.vision.order import reorder, rows_to_blocks
from loongforge_projectors.patch_merger.config import PatchMergerConfig

__all__ = ["PatchMergerProjector"]


class Merger(nn.Module):
    """Features of whole blocks, block by block, `[N, W]` -> tokens `[M, hidden_size]`."""

    def __init__(self, config: PatchMergerConfig, normalised_size: int) -> None:
        """`normalised_size`: the width of a feature, or of all features of a block."""
        super().__init__()
        norm = nn.RMSNorm if config.normalization == "RMSNorm" else nn.LayerNorm
        self.norm = norm(normalised_size, eps=config.layernorm_epsilon)
        self.linear_fc1 = nn.Linear(config.merged_size, config.merged_size)
        self.linear_fc2 = nn.Linear(config.merged_size, config.hidden_size)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def forward(self, hidden_NW: Tensor) -> Tensor:
        merged_MmW = self.norm(hidden_NW.view(-1, *self.norm.normalized_shape)).view(-1, self.linear_fc1.in_features)
        return self.linear_fc2(F.gelu(self.linear_fc1(merged_MmW), approximate=self.approximate))


class PatchMergerProjector(Projector[PatchMergerConfig]):
    """Replicated over its encoder's tensor ranks."""

    def __init__(self, config: PatchMergerConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.merger = Merger(config, config.input_size)
        self.level_mergers = nn.ModuleList(Merger(config, config.merged_size) for _ in range(config.num_levels))

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def forward(self, features: Features) -> Features:
        if len(features.levels) != self.config.num_levels:
            raise PluginError(f"patch_merger has num_levels {self.config.num_levels}, but its encoder emits {len(features.levels)} levels")
        places = rows_to_blocks(features.grids, self.config.spatial_merge_size)
        return Features(
            self.merger(reorder(features.hidden_NW, places)),
            tuple(self.config.token_grid(grid) for grid in features.grids),
            tuple(merger(reorder(level, places)) for merger, level in zip(self.level_mergers, features.levels, strict=True)),
        )
