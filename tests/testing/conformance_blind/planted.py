"""Ten mistakes that the author of a plugin could make, each in a component that is healthy apart from it. `test_blind.py` lists them.

Shapes: t values of an item, N tokens of all items, W width, T tokens of the longest item, b items, P positions; s, b, v as in `Decoder`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region, reduce_from_tensor_model_parallel_region
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from loongforge_core import BuildContext, Encoder, Features, InitialValues, Items, Projector
from loongforge_core.layers.decoder import Decoder
from loongforge_core.layers.linear import ColumnLinear, RowLinear
from loongforge_core.layers.loss import mask_padded_vocabulary
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_core.layers.vision.order import reorder, rows_to_blocks
from tests.testing.conformance_blind.planted_configs import BlocksConfig, SplitConfig, StripConfig, ThriftyConfig

NUM_POSITIONS = 8

# --------------------------------------------------------------------------------------------------------------- encoders


class Layer(nn.Module):
    """Token by token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(F.gelu(self.up(self.norm(hidden))))


class StripEncoder(Encoder[StripConfig]):
    """Healthy: patches, learned positions drawn over each item, the mean of the item, layers, a norm."""

    def __init__(self, config: StripConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.patch_embedding = nn.Linear(self.patch_width(), config.hidden_size)
        self.position_embedding = nn.Embedding(NUM_POSITIONS, config.hidden_size)
        self.layers = nn.ModuleList(self.make_layer() for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size)

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(0.2)

    def forward(self, items: Items) -> Features:
        values = items.inputs["values"].to(self.final_norm.weight.dtype).split([length for (length,) in items.sizes])
        embedded = [self.embed(values_t) for values_t in values]
        hidden_NW = self.run_layers(torch.cat(embedded), [len(item_NW) for item_NW in embedded])
        return Features(self.final_norm(hidden_NW), tuple(self.config.token_grid(size) for size in items.sizes))

    def patch_width(self) -> int:
        return self.config.patch_size

    def make_layer(self) -> nn.Module:
        return Layer(self.config.hidden_size)

    def embed(self, values_t: Tensor) -> Tensor:
        hidden_NW = self.patch_embedding(self.patches(values_t))
        hidden_NW = hidden_NW + self.positions(len(hidden_NW))
        return hidden_NW + hidden_NW.mean(dim=0, keepdim=True)

    def patches(self, values_t: Tensor) -> Tensor:
        return F.pad(values_t, (0, -len(values_t) % self.config.patch_size)).view(-1, self.config.patch_size)

    def positions(self, num_tokens: int) -> Tensor:
        return self.drawn_over(num_tokens)

    def drawn_over(self, num_tokens: int) -> Tensor:
        """The table of positions from end to end of an item, linear between its entries."""
        table_PW = self.position_embedding.weight
        entries = torch.arange(NUM_POSITIONS, device=table_PW.device, dtype=torch.float32)
        places = torch.arange(num_tokens, device=table_PW.device, dtype=torch.float32) * (NUM_POSITIONS - 1) / max(num_tokens - 1, 1)
        weights_NP = (1 - (places[:, None] - entries).abs()).clamp(min=0)
        return weights_NP.to(table_PW.dtype) @ table_PW

    def run_layers(self, hidden_NW: Tensor, lengths: list[int]) -> Tensor:
        for layer in self.layers:
            hidden_NW = layer(hidden_NW)
        return hidden_NW


class SortedEncoder(StripEncoder):
    """Healthy: items run from the longest to the shortest, as packed recurrent layers want them, and come back into their order."""

    def run_layers(self, hidden_NW: Tensor, lengths: list[int]) -> Tensor:
        order = sorted(range(len(lengths)), key=lambda item: -lengths[item])
        items = hidden_NW.split(lengths)
        hidden_bTW = pad_sequence([items[item] for item in order], batch_first=True)
        for layer in self.layers:
            hidden_bTW = layer(hidden_bTW)
        done = [rows_TW[: lengths[item]] for rows_TW, item in zip(hidden_bTW, order, strict=True)]
        return torch.cat([done[place] for place in self.way_back(order)])

    def way_back(self, order: list[int]) -> list[int]:
        return [order.index(item) for item in range(len(order))]


class SortedAgainEncoder(SortedEncoder):
    """BUG order: sorted once more by the same order instead of its inverse. Two items, or items that are already sorted, hide it."""

    def way_back(self, order: list[int]) -> list[int]:
        return order


class RememberingEncoder(StripEncoder):
    """BUG state: evaluation keeps the positions of each length, and goes on using them after the table was trained further.

    The cache is the method's, not an attribute of the module; with gradients it is not asked.
    """

    def positions(self, num_tokens: int) -> Tensor:
        return self.drawn_over(num_tokens) if torch.is_grad_enabled() else self.remembered(num_tokens)

    @lru_cache(maxsize=64)  # noqa: B019 (the mistake that is planted here)
    def remembered(self, num_tokens: int) -> Tensor:
        return self.drawn_over(num_tokens)


class RecomputingEncoder(StripEncoder):
    """Healthy: saves memory itself, layer by layer."""

    def run_layers(self, hidden_NW: Tensor, lengths: list[int]) -> Tensor:
        if self.context.recompute != "full" or not self.training:
            return super().run_layers(hidden_NW, lengths)
        return self.recomputed(hidden_NW)

    def recomputed(self, hidden_NW: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_NW = checkpoint(layer, hidden_NW, use_reentrant=False)
        return hidden_NW


class LateEncoder(RecomputingEncoder):
    """BUG recomputation: the lambda looks `layer` up when it runs, and in the backward pass that is the last layer each time."""

    def recomputed(self, hidden_NW: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_NW = checkpoint(lambda hidden: layer(hidden), hidden_NW, use_reentrant=False)  # noqa: B023 (planted)
        return hidden_NW


class WindowsEncoder(StripEncoder):
    """Healthy with `WindowsConfig`: overlapping windows; BUG token_counts with `ShortWindowsConfig`."""

    def patch_width(self) -> int:
        return self.config.kernel_size

    def patches(self, values_t: Tensor) -> Tensor:
        kernel_size = self.config.kernel_size
        return F.pad(values_t, (0, max(0, kernel_size - len(values_t)))).unfold(0, kernel_size, self.config.patch_size)


class SplitLayer(nn.Module):
    """Column-parallel, GELU, RMS norm over the whole width between them (as EVA-02 has one), row-parallel."""

    def __init__(self, config: SplitConfig, context: BuildContext) -> None:
        super().__init__()
        self.group = context.groups.tp
        self.ffn_hidden_size = config.ffn_hidden_size
        shared: dict[str, Any] = {"config": transformer_config(config, context), "init_method": lambda _: None, "tp_group": self.group}
        shared |= {"bias": True, "skip_bias_add": False}
        self.norm = nn.LayerNorm(config.hidden_size)
        self.linear_fc1 = ColumnLinear(config.hidden_size, config.ffn_hidden_size, gather_output=False, **shared)
        self.linear_fc2 = RowLinear(config.ffn_hidden_size, config.hidden_size, input_is_parallel=True, **shared)

    def forward(self, hidden_NW: Tensor) -> Tensor:
        between = F.gelu(self.linear_fc1(self.norm(hidden_NW)[:, None])[0])
        return hidden_NW + self.linear_fc2(self.normalised(between))[0][:, 0]

    def normalised(self, between: Tensor) -> Tensor:
        squares = between.float().square().sum(dim=-1, keepdim=True)
        if self.group.size() > 1:  # summed in both passes: every rank's outputs depend on all squares
            squares = copy_to_tensor_model_parallel_region(reduce_from_tensor_model_parallel_region(squares, self.group), self.group)
        return between * (squares / self.ffn_hidden_size + 1e-6).rsqrt().to(between.dtype)


class LocalNormLayer(SplitLayer):
    """BUG layout_tensor: the mean square is that of this rank's columns."""

    def normalised(self, between: Tensor) -> Tensor:
        return F.rms_norm(between, between.shape[-1:], eps=1e-6)


class SplitEncoder(StripEncoder):
    """Healthy."""

    def make_layer(self) -> nn.Module:
        return SplitLayer(self.config, self.context)


class LocalNormEncoder(StripEncoder):
    """BUG layout_tensor."""

    def make_layer(self) -> nn.Module:
        return LocalNormLayer(self.config, self.context)


# ------------------------------------------------------------------------------------------------------------- projectors


class Gelu(torch.autograd.Function):
    """Healthy: the derivative is worked out again from the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi))


class QuickBackwardGelu(Gelu):
    """BUG derivatives: the backward pass is that of CLIP's approximation, forward is exact: two hundredths apart, never more than some."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(1.702 * x)
        return gradient * (gate + 1.702 * x * gate * (1 - gate))


class ThriftyProjector(Projector[ThriftyConfig]):
    """Healthy."""

    activation: type[Gelu] = Gelu

    def __init__(self, config: ThriftyConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.linear_1 = nn.Linear(config.input_size, config.hidden_size)
        self.linear_2 = nn.Linear(config.hidden_size, config.hidden_size)

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(0.2)

    def forward(self, features: Features) -> Features:
        return Features(self.linear_2(self.activation.apply(self.linear_1(features.hidden_NW))), features.grids)


class QuickBackwardProjector(ThriftyProjector):
    """BUG derivatives."""

    activation = QuickBackwardGelu


class BlocksProjector(Projector[BlocksConfig]):
    """Healthy: features and levels alike lie block by block before four of them go side by side."""

    def __init__(self, config: BlocksConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.merger = nn.Linear(4 * config.input_size, config.hidden_size)
        self.level_mergers = nn.ModuleList(nn.Linear(4 * config.input_size, config.hidden_size) for _ in range(config.num_levels))

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(0.2)

    def forward(self, features: Features) -> Features:
        places = rows_to_blocks(features.grids, 2)
        hidden_NW = self.merger(side_by_side(reorder(features.hidden_NW, places)))
        levels = (self.level_blocks(level_NW, places) for level_NW in features.levels)
        projected = tuple(merger(level_NW) for merger, level_NW in zip(self.level_mergers, levels, strict=True))
        return Features(hidden_NW, tuple(self.config.token_grid(grid) for grid in features.grids), projected)

    def level_blocks(self, level_NW: Tensor, places: Tensor) -> Tensor:
        return side_by_side(reorder(level_NW, places))


class RowLevelsProjector(BlocksProjector):
    """BUG levels: four features of a row go side by side, not the four of a block, so that a level's token is from another place."""

    def level_blocks(self, level_NW: Tensor, places: Tensor) -> Tensor:
        return side_by_side(level_NW)


def side_by_side(hidden_NW: Tensor) -> Tensor:
    return hidden_NW.reshape(-1, 4 * hidden_NW.shape[1])


# -------------------------------------------------------------------------------------------------------------- backbones


class CappedDecoder(Decoder):
    """Healthy: logits are capped, and then those of no word are taken out."""

    def logits(self, hidden_sbh: Tensor) -> Tensor:
        weight = self.shared_embedding_or_output_weight() if self.tied else None
        logits_sbv = self.capped(self.output_layer(hidden_sbh, weight=weight)[0])
        return mask_padded_vocabulary(logits_sbv, self.config.vocab_size, self.context.groups.tp.rank() * logits_sbv.shape[-1])

    def capped(self, logits_sbv: Tensor) -> Tensor:
        cap: float = self.config.final_logit_softcapping
        return cap * torch.tanh(logits_sbv / cap)


class CappedPaddingDecoder(CappedDecoder):
    """BUG loss: what was as good as minus infinity is minus the cap afterwards: rows that pad the vocabulary are words again."""

    def logits(self, hidden_sbh: Tensor) -> Tensor:
        return self.capped(Decoder.logits(self, hidden_sbh))


def scaled(factor: float, module: nn.Module, inputs: Sequence[Any], output: Tensor) -> Tensor:
    return output * factor


class ScaledNormsDecoder(Decoder):
    """Healthy: deeper layers get smaller inputs."""

    def __init__(self, config: Any, context: BuildContext) -> None:
        super().__init__(config, context)
        for number, layer in zip(self.numbers(), self.decoder.layers, strict=True):
            for norm in (layer.input_layernorm, layer.pre_mlp_layernorm):
                norm.register_forward_hook(partial(scaled, 1 / math.sqrt(number)))

    def numbers(self) -> list[int]:
        return [layer.layer_number for layer in self.decoder.layers]


class NumberedByStageDecoder(ScaledNormsDecoder):
    """BUG layout_pipeline: layers are counted from the first of the stage, not of the model."""

    def numbers(self) -> list[int]:
        return [index + 1 for index in range(len(self.decoder.layers))]
