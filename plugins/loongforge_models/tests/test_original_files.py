"""Files of the original design, unchanged, in a user's own folder that is laid out as its were."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from loongforge_core.config.check import load_composition, missing_backends
from loongforge_core.config.composition import Composition
from loongforge_core.registry.registry import Registry

DEFAULTS = """\
defaults:
  - ../../models/image_encoder@model.image_encoder: intern_vit_0.3b
  - ../../models/image_projector@model.image_projector: intern_mlp_adapter
  - ../../models/internlm2.5@model.foundation: internlm2_5_8b
  - _self_
model:
  model_type: intern_vl
"""
PLAIN = DEFAULTS
FULL = (
    DEFAULTS
    + """\
  loss_func: ${loss_func:loss_func_internvl}
  image_projector:
    hidden_size: 4096
    ffn_hidden_size: 4096
  foundation:
    rotary_emb_func: "DynamicRotaryEmbedding"
    rotary_base: 1000000
    model_spec: ["loongforge.models.foundation.internlm.internlm_layer_spec", "get_internlm_layer_with_te_spec"]
"""
)

QWEN = """\
defaults:
  - ../../models/image_encoder@model.image_encoder: {encoder}
  - ../../models/image_projector@model.image_projector: {projector}
  - ../../models/{foundation}
  - _self_
model:
  model_type: {model_type}
  position_idx_func: ${{position_func:{positions}}}
  mix_used_vision_encoder: true
  mix_used_vision_projector: true
  foundation:
    rotary_base: 1000000
"""

Compose = Callable[..., Composition]


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """Writes a file into `configs/models/internvl2.5` of the user's own folder, and composes it."""
    monkeypatch.chdir(tmp_path)

    def compose(text: str, *overrides: str) -> Composition:
        file = tmp_path / "configs" / "models" / "internvl2.5" / "internvl2_5_8b.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return load_composition(str(file), overrides, registry=Registry.discover())

    return compose


@pytest.mark.parametrize("text", [PLAIN, FULL], ids=["plain", "full"])
def test_the_plugins_parts_are_found(text: str, compose: Compose) -> None:
    composition = compose(text)
    published = load_composition("internvl2.5/internvl2_5_8b", registry=Registry.discover())
    for name, slot in published.slots.items():
        ours = composition.slots[name].config.model_dump(exclude={"ffn_hidden_size"} if name == "image_projector" else set())
        assert ours == slot.config.model_dump(include=set(ours)), name
    assert composition.recipe.name == "intern_vl"
    assert composition.foundation.rotary_scaling.type == "dynamic" and composition.foundation.rotary_base == 1e6


@pytest.mark.parametrize("text", [PLAIN, FULL], ids=["plain", "full"])
def test_the_user_s_own_parts_come_first(text: str, compose: Compose, tmp_path: Path) -> None:
    """The published file, copied into `configs/models/image_encoder/` and made smaller."""
    files = [folder.path / "image_encoder" / "intern_vit_0.3b.yaml" for folder in Registry.discover().config_folders]
    (own,) = [yaml.safe_load(file.read_text()) for file in files if file.is_file()]
    target = tmp_path / "configs" / "models" / "image_encoder" / "intern_vit_0.3b.yaml"
    target.parent.mkdir(parents=True)
    target.write_text(yaml.safe_dump({**own, "num_layers": 3}))
    composition = compose(text)
    assert composition.encoder("image").num_layers == 3
    assert composition.foundation.num_layers == 32


@pytest.mark.skipif(find_spec("transformer_engine") is not None, reason="transformer-engine is installed here")
def test_a_spec_of_transformer_engine_is_a_wish_said_once(compose: Compose, caplog: pytest.LogCaptureFixture) -> None:
    composition = compose(FULL)
    assert composition.slots["foundation"].settings.backend is None and not missing_backends(composition)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "asks for transformer_engine, but transformer_engine is not installed here: torch is used" in record.getMessage()
    caplog.clear()
    assert compose(FULL, "model.foundation.backend=torch").slots["foundation"].settings.backend == "torch"
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("model_type", "positions", "encoder", "projector", "foundation", "mrope"),
    [
        ("qwen2_5_vl", "mrope_ids", "qwen2_5_vit", "qwen_mlp_adapter", "qwen2.5@model.foundation: qwen2_5_7b", "[16,24,24]"),
        ("qwen3_vl", "rope_ids_qwen3vl", "qwen3_vit", "qwen3_vl_adapter", "qwen3@model.foundation: qwen3_8b", "[24,20,20]"),
    ],
)
def test_position_functions_of_qwen(
    model_type: str, positions: str, encoder: str, projector: str, foundation: str, mrope: str, compose: Compose
) -> None:
    text = QWEN.format(model_type=model_type, positions=positions, encoder=encoder, projector=projector, foundation=foundation)
    composition = compose(text, f"model.foundation.mrope_section={mrope}")
    assert (composition.recipe.name, composition.recipe_config.position_axes) == (model_type, 3)
    assert "position_idx_func" not in composition.resolved["model"]
