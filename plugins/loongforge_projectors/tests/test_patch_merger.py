"""Qwen's patch merger: parity with those in transformers for features that lie row by row, round trip, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loongforge_projectors.patch_merger.config import PatchMergerConfig
from loongforge_projectors.patch_merger.weights import QWEN2_VL_NAMES, merger_table
from torch import Tensor, nn
from transformers import Qwen3VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPatchMerger
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger as Qwen2VLPatchMerger
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionPatchMerger

from loongforge_core.component import Shape
from loongforge_core.config.check import composition_from
from loongforge_core.errors import LoongForgeError, PluginError
from loongforge_core.layers.interfaces import Features
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.parity import check_parity
from loongforge_core.testing.reference import ours
from loongforge_core.testing.roundtrip import check_round_trip

GRIDS: tuple[Shape, ...] = ((2, 6), (3, 4, 2), (4, 4))
"""An image, a video of three steps, a square: 52 features, 13 tokens."""


class Reference(nn.Module):
    """The mergers of a tower of transformers, by the tower's names."""

    def __init__(self, merger: nn.Module, level_mergers: tuple[nn.Module, ...] = ()) -> None:
        super().__init__()
        self.merger = merger
        if level_mergers:
            self.deepstack_merger_list = nn.ModuleList(level_mergers)


def qwen3_vl() -> Reference:
    config = Qwen3VLVisionConfig(hidden_size=12, out_hidden_size=20)
    levels = tuple(Qwen3VLVisionPatchMerger(config, use_postshuffle_norm=True) for _ in range(2))
    return Reference(Qwen3VLVisionPatchMerger(config), levels)


def qwen2_5_vl() -> Reference:
    return Reference(Qwen2_5_VLPatchMerger(dim=20, context_dim=12))


CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "qwen3_vl": ({"normalization": "LayerNorm", "num_levels": 2}, qwen3_vl),
    "qwen2_5_vl": ({"normalization": "RMSNorm"}, qwen2_5_vl),
}


def both(name: str) -> tuple[PatchMergerConfig, Reference]:
    settings, reference = CASES[name]
    return PatchMergerConfig(input_size=12, hidden_size=20, **settings), reference()


def features(levels: int) -> Features:
    generator = torch.Generator().manual_seed(3)
    hidden, *others = (torch.randn(52, 12, generator=generator) for _ in range(1 + levels))
    return Features(hidden, GRIDS, tuple(others))


def blocks(hidden_NW: Tensor) -> Tensor:
    """Each block's four features one after another, as the references take them: here they are looked up one by one."""
    rows, first = [], 0
    for *frames, height, width in GRIDS:
        number = frames[0] if frames else 1
        grid = hidden_NW[first : first + number * height * width].view(number, height, width, -1)
        first += number * height * width
        rows += [
            grid[frame, row + down, column + across]
            for frame in range(number)
            for row in range(0, height, 2)
            for column in range(0, width, 2)
            for down in range(2)
            for across in range(2)
        ]
    return torch.stack(rows)


@pytest.mark.parametrize("name", CASES)
def test_parity(name: str, tmp_path: Path) -> None:
    config, reference = both(name)
    given = features(config.num_levels)

    def run_ours(projector: Any) -> Tensor:
        projected = projector(given)
        assert projected.grids == ((1, 3), (3, 2, 1), (2, 2))
        return torch.cat([projected.hidden_NW, *projected.levels])

    def run_reference(reference: Any) -> Tensor:
        mergers = [reference.merger, *getattr(reference, "deepstack_merger_list", ())]
        return torch.cat([merger(blocks(hidden)) for merger, hidden in zip(mergers, (given.hidden_NW, *given.levels), strict=True)])

    with ours(config) as built:
        check_parity(built, reference, tmp_path, run_ours=run_ours, run_reference=run_reference)


@pytest.mark.parametrize("name", CASES)
def test_round_trip(name: str, tmp_path: Path) -> None:
    check_round_trip(*both(name), tmp_path)


def test_layer_norms_by_qwen2_vls_names(tmp_path: Path) -> None:
    """As LLaVA-OneVision 1.5 has them, whose recipe asks for this table."""
    config = PatchMergerConfig(input_size=12, hidden_size=20, normalization="LayerNorm")
    table = merger_table(config, QWEN2_VL_NAMES)
    with ours(config, table=table) as built:
        check_parity(
            built,
            Reference(Qwen2VLPatchMerger(dim=20, context_dim=12)),
            tmp_path,
            run_ours=lambda projector: projector(features(0)).hidden_NW,
            run_reference=lambda reference: reference.merger(blocks(features(0).hidden_NW)),
        )


def test_the_gradient_reaches_each_feature_at_its_place() -> None:
    config = PatchMergerConfig(input_size=12, hidden_size=20)
    with ours(config) as built:
        nn.init.normal_(built.model.merger.linear_fc1.weight)
        nn.init.normal_(built.model.merger.linear_fc2.weight)
        hidden_NW = features(0).hidden_NW.requires_grad_()
        built.model(Features(hidden_NW, GRIDS)).hidden_NW[0].sum().backward()
    assert hidden_NW.grad is not None
    # The first token is made of the first two columns of the first image's two rows, which are six long.
    assert hidden_NW.grad.any(dim=1).nonzero().flatten().tolist() == [0, 1, 6, 7]


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (2, 3, 4), (8,)])
def test_a_grid_without_whole_blocks_is_refused(grid: Shape) -> None:
    with pytest.raises(ValueError, match=f"features that lie {' x '.join(map(str, grid))} cannot be merged in blocks of 2 x 2"):
        PatchMergerConfig(input_size=12, hidden_size=20).token_grid(grid)


def test_another_number_of_levels_is_refused() -> None:
    config, said = PatchMergerConfig(input_size=12, hidden_size=20, num_levels=3), "num_levels 3, but its encoder emits 2 levels"
    with ours(config) as built, pytest.raises(PluginError, match=said):
        built.model(features(2))


@pytest.mark.parametrize("image_size, fits", [(16, True), (20, False)])
def test_it_follows_an_encoder_of_square_images(image_size: int, fits: bool) -> None:
    """SigLIP's patches of 4 pixels: 4 x 4 are merged, 5 x 5 are refused before anything is built."""
    encoder = {"type": "siglip", "image_size": image_size, "patch_size": 4, "hidden_size": 16, "num_attention_heads": 4}
    foundation = {"type": "qwen2", "num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 16, "num_attention_heads": 2, "vocab_size": 11}
    slots = {"image_encoder": encoder, "image_projector": {"type": "patch_merger"}, "foundation": foundation}
    if fits:
        composition_from({"model": slots}, Registry.discover())
    else:
        with pytest.raises(LoongForgeError, match="features that lie 5 x 5 cannot be merged in blocks of 2 x 2"):
            composition_from({"model": slots}, Registry.discover())


ORIGINAL = {"activation_func": "gelu", "normalization": "LayerNorm", "model_type": "qwen3_vl_adapter", "gated_linear_unit": False}


def test_the_original_designs_keys() -> None:
    """As its compositions of Qwen3-VL write them; other values than those that are built are refused."""
    encoder = {"type": "siglip", "image_size": 16, "patch_size": 4, "hidden_size": 16, "num_attention_heads": 4}
    foundation = {"type": "qwen2", "num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 16, "num_attention_heads": 2, "vocab_size": 11}

    def composed(**written: Any) -> PatchMergerConfig:
        projector = {"type": "patch_merger", **ORIGINAL, **written}
        slots = {"image_encoder": encoder, "image_projector": projector, "foundation": foundation}
        config = composition_from({"model": slots}, Registry.discover()).slots["image_projector"].config
        assert isinstance(config, PatchMergerConfig)
        return config

    assert composed() == PatchMergerConfig(input_size=16, hidden_size=16, normalization="LayerNorm")
    with pytest.raises(LoongForgeError, match="gated_linear_unit: got true, expected false"):
        composed(gated_linear_unit=True)
