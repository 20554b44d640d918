"""The original design's forms: named callables, keys that mean fields of ours, and pairs that are looked up and never imported."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from loongforge_core.config import slots
from loongforge_core.config.check import load_composition, missing_backends
from loongforge_core.config.compose import compose_tree
from loongforge_core.config.composition import Composition
from loongforge_core.config.library import Library
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Registry

Compose = Callable[..., Composition]

PLAIN = """
defaults:
  - ../../models/image_encoder@model.image_encoder: eye_small
  - ../../models/brain2.5@model.foundation: brain_tiny
  - _self_
model:
  model_type: story
  image_projector: {type: bridge}
"""
FULL = (
    PLAIN
    + """
  loss_func: ${loss_func:loss_func_story}
  foundation:
    rotary_emb_func: "WideRope"
    model_spec: ["old.brains", "get_brain_with_te_spec"]
"""
)


@pytest.fixture
def compose(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """A user's own folder, laid out as the original design's."""
    monkeypatch.chdir(tmp_path)

    def compose(text: str, *overrides: str) -> Composition:
        path = tmp_path / "configs" / "models" / "family" / "mine.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return load_composition(str(path), overrides, registry=registry)

    return compose


def said(compose: Compose, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(FULL, *overrides)
    (issue,) = caught.value.issues
    return f"{issue.where} {issue.key}: {issue.message}"


def test_names_of_callables_mean_fields_and_nothing_is_imported(compose: Compose) -> None:
    composition = compose(FULL)
    assert composition.foundation.rope.base == 500.0
    assert "rotary_emb_func" not in composition.resolved["model"]["foundation"] and "loss_func" not in composition.resolved["model"]
    assert "old.brains" not in sys.modules
    assert not OmegaConf.has_resolver("loss_func"), "OmegaConf's global state is left as it was"


def test_what_stays_unsaid_stays_the_default(compose: Compose) -> None:
    composition = compose(PLAIN)
    assert composition.foundation.rope is None and composition.slots["foundation"].settings.backend is None


@pytest.mark.skipif(find_spec("transformer_engine") is not None, reason="transformer-engine is installed here")
def test_a_spec_of_transformer_engine_is_a_wish(compose: Compose, caplog: pytest.LogCaptureFixture) -> None:
    composition = compose(FULL)
    assert composition.slots["foundation"].settings.backend is None and not missing_backends(composition)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "transformer_engine is not installed here: torch is used" in record.getMessage()


def test_what_the_user_set_is_no_wish(compose: Compose, caplog: pytest.LogCaptureFixture) -> None:
    assert compose(FULL, "model.foundation.backend=torch").slots["foundation"].settings.backend == "torch"
    explicit = compose(FULL, "model.foundation.backend=transformer_engine")
    assert explicit.slots["foundation"].settings.backend == "transformer_engine"
    assert not caplog.records


def test_the_wish_is_granted_where_transformer_engine_is(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "missing_backend", lambda _: "")
    assert compose(FULL).slots["foundation"].settings.backend == "transformer_engine"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.foundation.rotary_emb_func=WideRop", "got WideRop, expected Rope or WideRope; did you mean 'WideRope'?"),
        (
            "model.foundation.model_spec=[old.brains,get_brain_with_spec]",
            'got ["old.brains", "get_brain_with_spec"], expected ["old.brains", "get_brain_spec"] or',
        ),
        ("model.foundation.model_spec=[os,system]", 'got ["os", "system"], expected'),
        ("model.loss_func=loss_func_storey", "got loss_func_storey, expected loss_func_story"),
        (
            "model.foundation.rope={base: 7.0}",
            "WideRope means rope: {'base': 500.0}, but rope: {'base': 7.0} is written",
        ),
    ],
)
def test_a_form_that_means_nothing_here_is_refused(compose: Compose, override: str, message: str) -> None:
    assert message in said(compose, override)


def test_a_pattern_of_layers_is_a_list(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {foundation: {moe_layer_freq: '${moe_freq:\"[0]*1+[1]*3\"}', activation_func: '${act:gelu}'}}")
    tree = compose_tree(str(path), [], Library.of(str(path), registry.config_folders)).tree
    assert tree["model"]["foundation"] == {"moe_layer_freq": [0, 1, 1, 1], "activation_func": "gelu"}
    path.write_text("model: {foundation: {moe_layer_freq: '${moe_freq:\"__import__(1)\"}'}}")
    with pytest.raises(ConfigError, match=r"mine.yaml:1: model.foundation.moe_layer_freq: .*expected a pattern of layers such as"):
        compose_tree(str(path), [], Library.of(str(path), registry.config_folders))
