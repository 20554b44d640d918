"""InternVL's projector: parity with the one in transformers, both formats on disk, grids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loongforge_projectors.intern_mlp.config import InternMlpConfig
from loongforge_projectors.intern_mlp.weights import table
from torch import Tensor, nn
from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector

from loongforge_core.layers.interfaces import Features
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.parity import check_projector
from loongforge_core.testing.reference import different_tensors, ours, read_tensors
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import published_config
from loongforge_core.weights.export_hf import export_component
from loongforge_core.weights.holding import holdings

GRIDS = ((2, 4, 4), (4, 4), (1, 4, 4), (2, 6), (4, 2))
"""Two tiles, pictures without tiles, one tile, and rows and columns of unequal numbers."""
TOKENS = 2 * 16 + 16 + 16 + 12 + 8


class Reference(InternVLMultiModalProjector):
    """With the shuffle that InternVL does before it, on features that lie in `GRIDS`."""

    def forward(self, hidden: Tensor) -> Tensor:
        sizes = [grid if len(grid) == 3 else (1, *grid) for grid in GRIDS]
        pieces = hidden.split([tiles * rows * columns for tiles, rows, columns in sizes])
        shuffled = [InternVLModel.pixel_shuffle(None, piece.view(*size, -1)).flatten(0, 2) for piece, size in zip(pieces, sizes)]
        return super().forward(torch.cat(shuffled))


def reference(*, normalization: str = "LayerNorm", embeddings: int = 32) -> InternVLMultiModalProjector:
    parts = {"vision_config": InternVLVisionConfig(hidden_size=12), "text_config": Qwen2Config(hidden_size=embeddings)}
    built = Reference(InternVLConfig(**parts))
    if normalization == "RMSNorm":
        built.layer_norm = nn.RMSNorm(48, eps=1e-5)
    return built


def features() -> Features:
    generator = torch.Generator().manual_seed(3)
    hidden, level = (torch.randn(TOKENS, 12, generator=generator) for _ in range(2))
    return Features(hidden, GRIDS, levels=(level,))


@pytest.mark.parametrize("normalization", ["LayerNorm", "RMSNorm"])
def test_parity(normalization: str, tmp_path: Path) -> None:
    config = InternMlpConfig(input_size=12, hidden_size=32, normalization=normalization)
    check_projector(config, reference(normalization=normalization), tmp_path, features())


def test_another_width_between_the_layers(tmp_path: Path) -> None:
    theirs = reference()
    theirs.linear_1, theirs.linear_2 = nn.Linear(48, 20), nn.Linear(20, 32)
    check_projector(InternMlpConfig(input_size=12, hidden_size=32, ffn_hidden_size=20), theirs, tmp_path, features())


def test_emitted_grids_are_the_config_s() -> None:
    config = InternMlpConfig(input_size=12, hidden_size=32)
    with ours(config) as built, torch.no_grad():
        emitted = built.model(features())
    assert emitted.grids == ((2, 2, 2), (2, 2), (1, 2, 2), (1, 3), (2, 1)) == tuple(config.token_grid(grid) for grid in GRIDS)
    assert emitted.hidden_NW.shape == emitted.levels[0].shape == (TOKENS // 4, 32)


@pytest.mark.parametrize("grid", [(27, 27), (2, 24, 27), (3, 27, 24)])
def test_odd_grids_are_refused(grid: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"rows and columns must be even; the encoder's are {grid[-2]} x {grid[-1]}"):
        InternMlpConfig(input_size=12, hidden_size=32).token_grid(grid)


def test_features_in_a_line_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features that lie in rows and columns; the encoder's lie 577"):
        InternMlpConfig(input_size=12, hidden_size=32).token_grid((577,))


@pytest.mark.parametrize("normalization", ["LayerNorm", "RMSNorm"])
def test_round_trip(normalization: str, tmp_path: Path) -> None:
    config = InternMlpConfig(input_size=12, hidden_size=32, normalization=normalization)
    check_round_trip(config, reference(normalization=normalization), tmp_path)


OPENGVLAB = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}
"""Places in their `mlp1`; at 2 is the GELU."""


def test_round_trip_in_opengvlabs_format(tmp_path: Path) -> None:
    config = InternMlpConfig(input_size=12, hidden_size=32)
    opengvlab = table(config).alternatives["OpenGVLab"]
    theirs = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 32), nn.GELU(), nn.Linear(32, 32))
    check_round_trip(config, theirs, tmp_path, table=opengvlab)
    assert json.loads((tmp_path / "export" / "config.json").read_text()) == {"downsample_ratio": 0.5, "ps_version": "v2"}


def test_both_formats_hold_the_same(tmp_path: Path) -> None:
    config = InternMlpConfig(input_size=12, hidden_size=32)
    folders = {"transformers": table(config), "OpenGVLab": table(config).alternatives["OpenGVLab"]}
    with ours(config) as built:
        for name, format in folders.items():
            (tmp_path / name).mkdir()
            export_component(tmp_path / name, built.target, format, config)
    renamed = {}
    for name, tensor in read_tensors(tmp_path / "transformers").items():
        module, _, part = name.rpartition(".")
        renamed[f"{OPENGVLAB[module]}.{part}"] = tensor
    assert not different_tensors(renamed, read_tensors(tmp_path / "OpenGVLab"))


PUBLISHED: list[tuple[dict[str, int], InternVLConfig]] = [
    ({"input_size": vision, "hidden_size": text}, InternVLConfig(vision_config={"hidden_size": vision}, text_config={"hidden_size": text}))
    for vision, text in ((1024, 4096), (3200, 5120))
]
"""InternVL 2.5 8B, and 38B: the widths are not in the YAML, since they follow from the neighbours."""


@pytest.mark.parametrize(("widths", "theirs"), PUBLISHED, ids=["8B", "38B"])
def test_published_size(widths: dict[str, int], theirs: Any) -> None:
    config = published_config("image_projector/intern_mlp_adapter", Registry.discover(), widths)
    with torch.device("meta"):
        reference = InternVLMultiModalProjector(theirs)
    with ours(config, device=torch.device("meta")) as built:
        shapes = built.table.shapes_on_disk({name: holding.shape for name, holding in holdings({"": built.model}).items()})
    assert shapes == {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
