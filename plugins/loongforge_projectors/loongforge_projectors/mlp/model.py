"""LLaVA's projector: linear, GELU, linear, token by token (Liu et al. 2023, arXiv:2310.03744).

Reference: `transformers.models.llava.modeling_llava.LlavaMultiModalProjector`.

Shapes: N tokens of all items, W width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from loongforge_core.component import InitialValues
from loongforge_core.layers.interfaces import BuildContext, Features, Projector
from loongforge_projectors.mlp.config import MlpConfig

__all__ = ["MlpProjector"]


class MlpProjector(Projector[MlpConfig]):
    """Replicated over its encoder's tensor ranks."""

    def __init__(self, config: MlpConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        between = config.ffn_hidden_size or config.hidden_size
        self.linear_1 = nn.Linear(config.input_size, between, bias=config.add_bias_linear)
        self.linear_2 = nn.Linear(between, config.hidden_size, bias=config.add_bias_linear)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def forward(self, features: Features) -> Features:
        return Features(self.project(features.hidden_NW), features.grids, tuple(map(self.project, features.levels)))

    def project(self, hidden_NW: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(hidden_NW), approximate=self.approximate))
