"""Small components, right ones, and each with one bug in it, of the kind that authors make.

Shapes: t numbers of all rows, n patches of a row, P numbers of a patch, N patches of all rows, W width, s sequence, b batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.tensor_parallel import checkpoint as recomputed
from planted_configs import PATCH, WIDTH, RowConfig
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from loongforge_core import BuildContext, ComponentSpec, Encoder, Features, Initial, InitialValues, Items, Projector
from loongforge_core.layers.decoder import Decoder
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_core.testing.conformance.neighbour_modules import PlainProjector
from loongforge_core.weights.rules import TENSOR, WEIGHT_AND_BIAS, Copy
from loongforge_core.weights.table import Table

# ---- encoders


class RowEncoder(Encoder[RowConfig]):
    """Patches of a row with learned positions and a class token see each other; without a bug."""

    def __init__(self, config: RowConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.patches = nn.Linear(PATCH, WIDTH)
        self.positions = nn.Embedding(64, WIDTH)
        self.class_token = nn.Parameter(torch.empty(1, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.final_norm = nn.LayerNorm(WIDTH)

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(self.config.init_method_std)

    def forward(self, items: Items) -> Features:
        hidden = [self.embed(patches_nP, number) for number, patches_nP in enumerate(self.cut(items))]
        encoded_NW = torch.cat(self.encode(hidden))
        return Features(self.final_norm(encoded_NW), self.grids(items))

    def grids(self, items: Items) -> tuple[tuple[int, ...], ...]:
        return tuple((-(-length // PATCH),) for (length,) in items.sizes)

    def cut(self, items: Items) -> list[Tensor]:
        """Each row's patches, the last filled up with zeros."""
        values_t = items.inputs["values"].to(self.patches.weight.dtype)
        rows = torch.split(values_t, [length for (length,) in items.sizes])
        return [F.pad(row, (0, -len(row) % PATCH)).view(-1, PATCH) for row in rows]

    def embed(self, patches_nP: Tensor, number: int) -> Tensor:
        return self.patches(patches_nP) + self.positions.weight[: len(patches_nP)]

    def encode(self, hidden: list[Tensor]) -> list[Tensor]:
        return [self.block(hidden_nW) for hidden_nW in hidden]

    def block(self, hidden_nW: Tensor) -> Tensor:
        return self.attend(torch.cat([self.class_token, hidden_nW]))[1:]

    def attend(self, hidden_nW: Tensor) -> Tensor:
        query, key, value = self.query_key_value(self.norm(hidden_nW))[None].chunk(3, dim=-1)
        return hidden_nW + F.scaled_dot_product_attention(query, key, value)[0]


class ForgottenClassToken(RowEncoder):
    def block(self, hidden_nW: Tensor) -> Tensor:
        return self.attend(hidden_nW)


class DetachesTheAttention(RowEncoder):
    """A gradient reaches every parameter, by the way around the attention only."""

    def attend(self, hidden_nW: Tensor) -> Tensor:
        query, key, value = self.query_key_value(self.norm(hidden_nW))[None].chunk(3, dim=-1)
        return hidden_nW + F.scaled_dot_product_attention(query, key.detach(), value)[0]


class PositionsByBatchIndex(RowEncoder):
    def embed(self, patches_nP: Tensor, number: int) -> Tensor:
        return self.patches(patches_nP) + self.positions.weight[number]


class MeanOverPadding(RowEncoder):
    """The mean of a row, taken over the longest row's length."""

    def encode(self, hidden: list[Tensor]) -> list[Tensor]:
        mean_bW = pad_sequence(super().encode(hidden), batch_first=True).mean(1)
        return [hidden_nW + mean_W for hidden_nW, mean_W in zip(super().encode(hidden), mean_bW)]


class AttendsAcrossItems(RowEncoder):
    def encode(self, hidden: list[Tensor]) -> list[Tensor]:
        together_NW = torch.cat(hidden)
        return [self.block(together_NW)]


class CutAtTheWrongItem(RowEncoder):
    """Out of the padded batch come as many features as there should be, and not every row's own."""

    def encode(self, hidden: list[Tensor]) -> list[Tensor]:
        padded_NW = pad_sequence(super().encode(hidden), batch_first=True).flatten(0, 1)
        return [padded_NW[: sum(map(len, hidden))]]


class UnregisteredTable(RowEncoder):
    """Fixed random numbers that neither a checkpoint nor `.to(device)` knows of."""

    def __init__(self, config: RowConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.table = torch.randn(64, WIDTH)

    def embed(self, patches_nP: Tensor, number: int) -> Tensor:
        return super().embed(patches_nP, number) + self.table[: len(patches_nP)].to(self.patches.weight.dtype)


REMEMBERED: dict[tuple[tuple[int, ...], ...], Features] = {}


class RemembersBySize(RowEncoder):
    """Saves time where rows of these lengths have been seen before."""

    def forward(self, items: Items) -> Features:
        return REMEMBERED.setdefault(items.sizes, super().forward(items))


class DrawsInitialValues(RowEncoder):
    def initial_values(self) -> InitialValues:
        drawn = Initial("given", values=lambda shape: np.random.default_rng().normal(size=shape))
        return InitialValues.transformer(0.3, first={"class_token": drawn})


class SeedsTorch(RowEncoder):
    """To begin with the same values every time."""

    def __init__(self, config: RowConfig, context: BuildContext) -> None:
        torch.manual_seed(0)
        super().__init__(config, context)


class AddsUpOverEverybody(RowEncoder):
    def block(self, hidden_nW: Tensor) -> Tensor:
        return super().block(hidden_nW) / distributed.get_world_size()


class DropsOutInEvaluation(RowEncoder):
    def block(self, hidden_nW: Tensor) -> Tensor:
        return F.dropout(super().block(hidden_nW), 0.1)


class NormalisesItsInput(RowEncoder):
    def cut(self, items: Items) -> list[Tensor]:
        items.inputs["values"].mul_(0.5)
        return super().cut(items)


class StaysInFloat32(RowEncoder):
    """Positions from a table that no dtype is given to."""

    def forward(self, items: Items) -> Features:
        features = super().forward(items)
        scale = torch.linspace(1, 2, WIDTH, dtype=torch.float32)
        return replace(features, hidden_NW=features.hidden_NW * scale)


class CountsItsPasses(RowEncoder):
    """Each pass is scaled by how many there were: the one that is recomputed is another than the first."""

    def __init__(self, config: RowConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.register_buffer("passes", torch.zeros(()), persistent=False)

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(0.3, first={"passes": Initial("constant", 0.0)})

    def scaled(self, hidden_nW: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
        return super().block(hidden_nW) * (1 + 0.01 * self.passes)

    def block(self, hidden_nW: Tensor) -> Tensor:
        if self.context.recompute == "full" and self.training:
            return recomputed(self.scaled, False, hidden_nW)
        return self.scaled(hidden_nW)


class AddsItsRank(RowEncoder):
    def block(self, hidden_nW: Tensor) -> Tensor:
        return super().block(hidden_nW) + self.positions.weight[distributed.get_rank()]


class SplitAndNotGathered(RowEncoder):
    """A layer over tensor ranks, each of which goes on with its own part as if it were the sum."""

    def __init__(self, config: RowConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        megatron = transformer_config(ForMegatron(), context)  # type: ignore[arg-type]
        groups: Any = context.groups
        arguments: dict[str, Any] = {"config": megatron, "init_method": nn.init.zeros_, "bias": False, "tp_group": groups.tp}
        self.wide = ColumnParallelLinear(WIDTH, 2 * WIDTH, gather_output=False, **arguments)

    def block(self, hidden_nW: Tensor) -> Tensor:
        wide_nW, _ = self.wide(super().block(hidden_nW))
        return wide_nW.view(len(hidden_nW), -1, WIDTH).sum(1)


class ForMegatron:
    def transformer_fields(self) -> dict[str, Any]:
        return {"num_layers": 1, "hidden_size": WIDTH, "num_attention_heads": 2, "activation": "gelu"}


class AsksTheGlobalState(RowEncoder):
    def block(self, hidden_nW: Tensor) -> Tensor:
        return super().block(hidden_nW) / parallel_state.get_tensor_model_parallel_world_size()


class NamesNoDistribution(RowEncoder):
    def initial_values(self) -> InitialValues:
        return InitialValues({"*.weight": Initial("normal", 0.1), "*.bias": Initial("constant", 0.0)})


class RemembersItems(RowEncoder):
    """A running mean of what it has seen, which a step without items leaves alone."""

    def __init__(self, config: RowConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.register_buffer("mean", torch.zeros(WIDTH))

    def initial_values(self) -> InitialValues:
        return InitialValues.transformer(0.3, first={"mean": Initial("constant", 0.0)})

    def encode(self, hidden: list[Tensor]) -> list[Tensor]:
        encoded = super().encode(hidden)
        if self.training:
            self.mean.lerp_(torch.cat(encoded).detach().mean(0), 0.1)
        return [each - self.mean for each in encoded]


class NormalisesTheBatch(RowEncoder):
    """Batch statistics in training."""

    def encode(self, hidden: list[Tensor]) -> list[Tensor]:
        encoded = super().encode(hidden)
        centre = torch.cat(encoded).mean(0) if self.training else 0.0
        return [each - centre for each in encoded]


# ---- projectors


class Halves(PlainProjector):
    """Features of a row of tokens two by two, the last alone where their number is odd; each on its own without a bug."""

    def forward(self, features: Features) -> Features:
        return Features(
            self.halved(features.hidden_NW, features.grids),
            tuple(self.config.token_grid(grid) for grid in features.grids),
            tuple(self.halved(level_NW, features.grids) for level_NW in features.levels),
        )

    def halved(self, hidden_NW: Tensor, grids: Sequence[tuple[int, ...]]) -> Tensor:
        rows, start = [], 0
        for *outer, length in grids:
            count = torch.tensor([*outer, 1]).prod().item()
            row_rlW = hidden_NW[start : start + count * length].view(count, length, -1)
            start += count * length
            row_rlW = F.pad(row_rlW, (0, 0, 0, length % 2))
            rows.append(row_rlW.unflatten(1, (-1, 2)).sum(2).flatten(0, 1))
        return self.linear(torch.cat(rows))


class HalvesAcrossItems(Halves):
    """Pairs are taken from all tokens one after another: where an item's are odd, its last one meets the next item's first."""

    def halved(self, hidden_NW: Tensor, grids: Sequence[tuple[int, ...]]) -> Tensor:
        expected = sum(torch.tensor(self.config.token_grid(grid)).prod().item() for grid in grids)
        pairs_NW = F.pad(hidden_NW, (0, 0, 0, max(0, 2 * expected - len(hidden_NW)))).unflatten(0, (-1, 2)).sum(1)
        return self.linear(pairs_NW[:expected])


class OneLevelForAll(PlainProjector):
    def forward(self, features: Features) -> Features:
        projected = super().forward(features)
        return replace(projected, levels=tuple(projected.levels[0] for _ in projected.levels))


class SaysTheEncodersGrids(Halves):
    def forward(self, features: Features) -> Features:
        return replace(super().forward(features), grids=features.grids)


class TwoLinear(Projector[Any]):
    """Linear, GELU, linear."""

    def __init__(self, config: Any, context: BuildContext) -> None:
        super().__init__(config, context)
        self.first = nn.Linear(config.input_size, config.hidden_size)
        self.second = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, features: Features) -> Features:
        return Features(self.project(features.hidden_NW), features.grids, tuple(map(self.project, features.levels)))

    def project(self, hidden_NW: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(hidden_NW)))


class TwoLinearReference(nn.Module):
    """As somebody else published it."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.input_size, config.hidden_size)
        self.fc2 = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_NW: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(hidden_NW)))


def right_table(config: Any) -> Table:
    return Table(rules=(Copy("fc1", "first", parts=WEIGHT_AND_BIAS), Copy("fc2", "second", parts=WEIGHT_AND_BIAS)))


def swapped_table(config: Any) -> Table:
    return Table(rules=(Copy("fc1", "second", parts=WEIGHT_AND_BIAS), Copy("fc2", "first", parts=WEIGHT_AND_BIAS)))


class UpsideDown(Copy):
    """Written as it is, and read with the last row first."""

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.flip(0) for tensor in theirs]


def one_way_table(config: Any) -> Table:
    rest = (Copy("fc1.bias", "first.bias", parts=TENSOR), Copy("fc2", "second", parts=WEIGHT_AND_BIAS))
    return Table(rules=(UpsideDown("fc1.weight", "first.weight", parts=TENSOR), *rest))


# ---- language models


class LooksAhead(Decoder):
    def forward(self, decoder_input_sbh: Tensor | None, position_ids: Tensor, **kwargs: Any) -> Tensor:
        assert decoder_input_sbh is not None
        return super().forward(decoder_input_sbh + decoder_input_sbh.mean(0, keepdim=True), position_ids, **kwargs)


class SharesAmongSamples(Decoder):
    def forward(self, decoder_input_sbh: Tensor | None, position_ids: Tensor, **kwargs: Any) -> Tensor:
        assert decoder_input_sbh is not None
        return super().forward(decoder_input_sbh + 0.1 * decoder_input_sbh[:1].mean(1, keepdim=True), position_ids, **kwargs)


class ShiftsLabels(Decoder):
    def forward(self, *args: Any, labels_bs: Tensor | None = None, **kwargs: Any) -> Tensor:
        return super().forward(*args, labels_bs=None if labels_bs is None else labels_bs.roll(-1, 1), **kwargs)


class IgnoresPacking(Decoder):
    def forward(self, *args: Any, packed: Any = None, **kwargs: Any) -> Tensor:
        return super().forward(*args, packed=None, **kwargs)


class ScalesEveryStage(Decoder):
    """What is to be done once, in front of the first layer, is done on every stage."""

    def forward(self, decoder_input_sbh: Tensor | None, position_ids: Tensor, **kwargs: Any) -> Tensor:
        if decoder_input_sbh is None:
            assert self.received is not None
            self.received = 1.5 * self.received
        return super().forward(None if decoder_input_sbh is None else 1.5 * decoder_input_sbh, position_ids, **kwargs)


class ForgetsLevels(Decoder):
    def forward(self, *args: Any, levels: Sequence[Tensor] = (), **kwargs: Any) -> Tensor:
        return super().forward(*args, levels=levels[:1], **kwargs)


# ---- a config where torch is


class HeavyConfig(RowConfig):
    """In a module that imports torch."""


def encoder(model: str, **more: Any) -> ComponentSpec:
    parts = {"config": "planted_configs:RowConfig", "processor": "planted_configs:RowProcessor", "summary": "rows", **more}
    return ComponentSpec(kind="encoder", name=model.lower(), modalities=("row",), model=f"planted:{model}", **parts)


def projector(model: str, config: str = "TwoLinearConfig", **more: Any) -> ComponentSpec:
    named = {"config": f"planted_configs:{config}", "summary": "features", **more}
    return ComponentSpec(kind="projector", name=f"{model.lower()}_projector", model=f"planted:{model}", **named)


def backbone(model: str) -> ComponentSpec:
    config = "planted_configs:TinyDecoderConfig"
    return ComponentSpec(kind="backbone", name=model.lower(), summary="a decoder", config=config, model=f"planted:{model}")


def recipe(config: str) -> ComponentSpec:
    return ComponentSpec(kind="recipe", name=config.lower(), summary="marks", modalities=("row",), config=f"planted_configs:{config}")
