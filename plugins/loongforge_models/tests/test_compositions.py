"""The compositions that this plugin publishes, and those that have no published format of the whole."""

from __future__ import annotations

from pathlib import Path

import loongforge_models
import pytest
from loongforge_models.llava_ov_1_5.config import LlavaOv15RecipeConfig
from loongforge_models.qwen2_5_vl.config import Qwen25VlRecipeConfig

from loongforge_core.config.check import load_composition
from loongforge_core.registry.registry import Registry
from loongforge_core.weights.formats import whole_table

CONFIGS = Path(loongforge_models.__file__).parent / "configs"
NAMES = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))

PART_BY_PART = {"custom/intern_vit_qwen2_5_7b", "digits_and_tones", "tones"}
"""Exported as a folder for each part."""


def test_none_is_missing() -> None:
    families = {"internvl2.5": 4, "internvl3.5": 5, "qwen2.5vl": 4, "qwen3_vl": 6, "llava_onevision": 1, "qwen2_audio": 1, "custom": 1}
    assert {family: sum(name.startswith(f"{family}/") for name in NAMES) for family in families} == families


@pytest.mark.parametrize("name", NAMES)
def test_every_composition_is_valid_and_has_its_format(name: str) -> None:
    registry = Registry.discover()
    composition = load_composition(name, registry=registry)
    assert (whole_table(composition, registry) is None) == (name in PART_BY_PART)
    if name.split("/")[0] in ("internvl2.5", "internvl3.5", "llava_onevision", "qwen2.5vl", "qwen3_vl"):
        assert composition.modalities == ("image", "video")


def test_llava_onevision_writes_items_as_qwen2_5_vl_does() -> None:
    """It has its processor, and plain positions."""
    ours, qwen = LlavaOv15RecipeConfig(), Qwen25VlRecipeConfig()
    for modality in ("image", "video"):
        assert ours.markup(modality) == qwen.markup(modality)
        assert list(ours.runs(modality, (2, 3, 4), {})) == list(qwen.runs(modality, (2, 3, 4), {}))
    assert ours.position_axes == 1 and ours.position_ids(5, []).tolist() == [0, 1, 2, 3, 4]
