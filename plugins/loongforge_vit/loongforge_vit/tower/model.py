"""A vision tower on square pictures of one size: patches, and Megatron's transformer layers up to the feature layer.

Left out: other resolutions than the config's.

Shapes: b pictures, s tokens of a picture, h width, C channels, H and W sides, p patch side.
"""

from __future__ import annotations

from typing import Any, TypeVar

from megatron.core.transformer import ModuleSpec
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.spec_utils import build_module
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from loongforge_core.component import InitialValues
from loongforge_core.layers.interfaces import BuildContext, Encoder
from loongforge_core.layers.specs import block_spec, layer_spec
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_vit.tower.config import TowerConfig

__all__ = ["TowerEncoder"]

TowerConfigT = TypeVar("TowerConfigT", bound=TowerConfig)


class TowerEncoder(Encoder[TowerConfigT]):
    """The layers of a tower; a subclass adds its embeddings and says what becomes of the last output."""

    patch_embedding: nn.Conv2d

    def __init__(self, config: TowerConfigT, context: BuildContext) -> None:
        super().__init__(config, context)
        megatron = transformer_config(config, context)
        layer = self.layer(megatron)
        self.transformer = TransformerBlock(
            config=megatron,
            spec=block_spec(megatron, context.backend, [layer] * config.num_layers_run),
            post_layer_norm=False,
            pg_collection=context.groups,
        )
        self.unused_layers = nn.ModuleList(
            build_module(layer, config=megatron, layer_number=number, pg_collection=context.groups)
            for number in range(config.num_layers_run + 1, config.num_layers + 1)
        ).requires_grad_(False)

    def layer(self, megatron: Any) -> ModuleSpec:
        """One layer; a tower whose layers are made of other modules says so here."""
        return layer_spec(megatron, self.context.backend, mask=AttnMaskType.no_mask)

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def patches(self, pixels_bCHW: Tensor) -> Tensor:
        """Embedded patches, row by row, `[b, s, h]`. A convolution whose stride is its size is one matrix product, which is faster."""
        patch, seen = self.config.patch_size, self.config.patches_per_side * self.config.patch_size
        pixels = pixels_bCHW[..., :seen, :seen].to(self.patch_embedding.weight.dtype)
        patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def run_layers(self, hidden_bsh: Tensor) -> Tensor:
        """The feature layer's output, `[b, s, h]`."""
        hidden_sbh: Tensor = self.transformer(hidden_states=hidden_bsh.transpose(0, 1).contiguous(), attention_mask=None)
        return hidden_sbh.transpose(0, 1)
