"""Qwen2-Audio's projector: one linear layer, token by token (Chu et al. 2024, arXiv:2407.10759).

Reference: `transformers.models.qwen2_audio.modeling_qwen2_audio.Qwen2AudioMultiModalProjector`.
"""

from __future__ import annotations

from torch import nn

from loongforge_core.component import InitialValues
from loongforge_core.layers.interfaces import BuildContext, Features, Projector
from loongforge_projectors.linear.config import LinearConfig

__all__ = ["LinearProjector"]


class LinearProjector(Projector[LinearConfig]):
    """Replicated over its encoder's tensor ranks."""

    def __init__(self, config: LinearConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.linear = nn.Linear(config.input_size, config.hidden_size, bias=config.add_bias_linear)

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def forward(self, features: Features) -> Features:
        return Features(self.linear(features.hidden_NW), features.grids, tuple(map(self.linear, features.levels)))
