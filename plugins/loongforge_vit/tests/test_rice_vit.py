"""RICE-ViT: parity with its published definition in plain torch (transformers has no such class), round trip, sizes, layouts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from loongforge_projectors.patch_merger.config import PatchMergerConfig
from loongforge_projectors.patch_merger.weights import QWEN2_VL_NAMES, merger_table
from loongforge_vit.rice_vit.config import RiceVitConfig
from native_resolution import (
    batches,
    check_cost,
    check_counts,
    check_independence,
    check_nothing_is_asked,
    check_recomputation,
    check_rotation_in_float32,
    composition,
    encode,
    items,
    pair,
    project,
    row_by_row,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MLCDVisionConfig, MLCDVisionModel

from loongforge_core.layers.interfaces import Items
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.layouts import Layout, check_layouts
from loongforge_core.testing.parity import check_parity
from loongforge_core.testing.reference import Ours, ours
from loongforge_core.testing.roundtrip import check_through
from loongforge_core.testing.sizes import published_config

OURS: dict[str, Any] = {"num_layers": 3, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "patch_size": 4}
MERGER: dict[str, Any] = {"normalization": "LayerNorm", "layernorm_epsilon": 1e-5}


class Block(nn.Module):
    """Pre-norm: attention of all heads to all tokens of a frame, then an MLP with GELU."""

    def __init__(self, width: int, ffn: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-5), nn.LayerNorm(width, eps=1e-5)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, ffn), "fc2": nn.Linear(ffn, width)})

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).view(len(x), 3, self.heads, -1).unbind(1)
        q, k = turned(q, angles), turned(k, angles)
        weights = torch.einsum("qhd,khd->hqk", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.attn["proj"](torch.einsum("hqk,khd->qhd", weights, v).flatten(1))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


def turned(heads: Tensor, angles: Tensor) -> Tensor:
    """Pairs `(i, i + d / 2)` of each head turned by `angles` `[tokens, d / 2]`."""
    first, second = heads.chunk(2, dim=-1)
    cosine, sine = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class Merger(nn.Module):
    """Four features one after another are one token."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.ln_q = nn.LayerNorm(width, eps=1e-5)
        self.mlp = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.GELU(), nn.Linear(4 * width, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).view(-1, 4 * x.shape[-1]))


class Rice(nn.Module):
    """The tower with its merger, one frame after another; names are those on disk."""

    def __init__(self) -> None:
        super().__init__()
        width, heads, side = 32, 4, 4
        self.frequencies = 1 / 10_000 ** (torch.arange(0, 4, 2) / 4)  # a head of 8: two for rows, two for columns
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, side, side, bias=False)})
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.class_pos_emb = nn.Parameter(torch.empty(1, width // heads // 2))
        self.pre_layernorm = nn.LayerNorm(width, eps=1e-5)
        self.blocks = nn.ModuleList(Block(width, 48, heads) for _ in range(3))
        self.merger = Merger(width, 24)

    def features(self, items: Items) -> Tensor:
        """Block by block, as pixels come."""
        patches = self.patch_embed["proj"](items.inputs["pixel_values"].view(-1, 3, 4, 4)).flatten(1)
        frames, first = [], 0
        for number, rows, columns in items.sizes:
            angles = torch.cat((self.class_pos_emb, self.angles(rows, columns)))
            for _ in range(number):
                x = self.pre_layernorm(torch.cat((self.class_embedding[None], patches[first : first + rows * columns])))
                for block in self.blocks:
                    x = block(x, angles)
                frames.append(x[1:])
                first += rows * columns
        return torch.cat(frames)

    def angles(self, rows: int, columns: int) -> Tensor:
        blocks = ((row, column) for row in range(0, rows, 2) for column in range(0, columns, 2))
        places = [(row + down, column + across) for row, column in blocks for down in (0, 1) for across in (0, 1)]
        return torch.stack([torch.cat((row * self.frequencies, column * self.frequencies)) for row, column in places])


def configs() -> tuple[RiceVitConfig, PatchMergerConfig]:
    return RiceVitConfig(**OURS), PatchMergerConfig(input_size=32, hidden_size=24, **MERGER)


def reference() -> Rice:
    return Rice()


@contextmanager
def rice() -> Iterator[Ours]:
    """The recipe of LLaVA-OneVision 1.5 asks the projector for its older names."""
    encoder, projector = configs()
    with pair(encoder, projector, "", projector_table=merger_table(projector, QWEN2_VL_NAMES, width_key="text_hidden_size")) as built:
        yield built


OUTPUTS = {
    "features": (
        lambda model, items: encode(model, items).hidden_NW,
        lambda reference, items: row_by_row(reference.features(items), items.sizes),
    ),
    "embeddings": (project, lambda reference, items: reference.merger(reference.features(items))),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_parity(what: str, tmp_path: Path) -> None:
    run_ours, run_reference = OUTPUTS[what]
    given = items(configs()[0])
    with rice() as built:
        check_parity(
            built,
            reference(),
            tmp_path,
            run_ours=lambda model: run_ours(model, given),
            run_reference=lambda reference: run_reference(reference, given),
        )


def test_round_trip(tmp_path: Path) -> None:
    with rice() as built:
        check_through(built, reference(), tmp_path)


def test_token_counts() -> None:
    check_counts(configs()[0])


def test_cost_grows_with_the_frame() -> None:
    check_cost(configs()[0])


def test_no_device_is_asked_how_long_something_is() -> None:
    check_nothing_is_asked(configs()[0])


def test_queries_and_keys_are_turned_in_float32() -> None:
    check_rotation_in_float32(configs()[0])


def test_items_are_independent() -> None:
    check_independence(configs()[0])


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputation_changes_no_gradient(recompute: str) -> None:
    check_recomputation(configs()[0], recompute)


def test_published_size() -> None:
    """RICE-ViT large beside `MLCDVisionModel`, whose one more parameter is its last norm; a patch has no bias in either."""
    config = published_config("image_encoder/llava_vit", Registry.discover(), {})
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
    with torch.device("meta"):
        closest = MLCDVisionModel(MLCDVisionConfig(**sizes, image_size=560, num_key_value_groups=1))
    theirs = {name: parameter.numel() for name, parameter in closest.named_parameters()}
    assert sum(theirs.values()) == 302_916_640, "the figure in the project's facts"
    last_norm = sum(number for name, number in theirs.items() if "post_layernorm" in name)
    with ours(config, device=torch.device("meta")) as built:
        assert sum(parameter.numel() for parameter in built.model.parameters()) == 302_916_640 - last_norm


def test_the_larger_one_is_published_too() -> None:
    config = published_config("image_encoder/llava_vit_2b", Registry.discover(), {})
    assert isinstance(config, RiceVitConfig)
    assert (config.num_layers, config.head_size) == (48, 104)


LAYOUTS = (
    Layout(tensor=2, encoders={"image_encoder": 2}),
    Layout(tensor=2, encoders={"image_encoder": 2}, recompute="full"),
    Layout(data=2, optimizer="overlapped"),
)


def test_every_layout_equals_one_process() -> None:
    small = {"type": "rice_vit", **OURS, "hidden_size": 16, "ffn_hidden_size": 24, "num_attention_heads": 2, "init_method_std": 0.1}
    model = composition(small, {"type": "patch_merger", **MERGER, "init_method_std": 0.1})
    check_layouts(model, LAYOUTS, batches(model))
