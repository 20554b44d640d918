"""Freezing slots and name patterns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from samples import IMAGE

from loongforge_core.config.composition import Composition
from loongforge_core.errors import ConfigError
from loongforge_core.model.batch import Batch
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry

Compose = Callable[..., Composition]


def frozen(composition: Composition, registry: Registry) -> set[str]:
    model = OmniModelProvider(composition=composition, registry=registry)()
    return {f"{slot}.{name}" for slot, part in model.components().items() for name, p in part.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("slot", ["image_encoder", "image_projector", "foundation"])
def test_a_slot_is_frozen_whole_and_alone(compose: Compose, registry: Registry, slot: str) -> None:
    model = OmniModelProvider(composition=compose(), registry=registry)()
    carried = frozen(compose(), registry)  # not trained by anyone: the norm behind the feature layer
    every = {f"{slot}.{name}" for name, _ in model.components()[slot].named_parameters()}
    assert frozen(compose(**{slot: {"freeze": True}}), registry) == every | carried


def test_patterns_freeze_what_they_match(compose: Compose, registry: Registry) -> None:
    patterns = ["embedding.*", "decoder.layers.0.*.bias"]
    found = frozen(compose(foundation={"freeze": patterns}), registry) - frozen(compose(), registry)
    assert found == {"foundation.embedding.word_embeddings.weight", "foundation.decoder.layers.0.self_attention.linear_qkv.bias"}


def test_patterns_that_match_nothing_are_errors_all_at_once(compose: Compose, registry: Registry) -> None:
    changes = {"foundation": {"freeze": ["embeding.word_embeddings.weight", "output_layer.*"]}, "image_encoder": {"freeze": ["nothing*"]}}
    with pytest.raises(ConfigError) as caught:
        frozen(compose(**changes), registry)
    first, second = (str(issue) for issue in caught.value.issues)
    assert first.startswith("model.image_encoder.freeze: freezing pattern 'nothing*' matches no parameter")
    assert "model.foundation.freeze" in second and "did you mean 'embedding.word_embeddings.weight'?" in second


def test_gradients_flow_through_what_is_frozen(compose: Compose, registry: Registry, batch_of: Callable[..., Batch]) -> None:
    composition = compose(image_projector={"freeze": True}, foundation={"freeze": True})
    model = OmniModelProvider(composition=composition, registry=registry)()
    batch = batch_of([5, IMAGE, 6, 7, 8])
    model.recipe.loss(model(batch), batch.loss_mask_bs)[0].backward()
    for slot, part in model.components().items():
        for name, parameter in part.named_parameters():
            assert (parameter.grad is not None) == (slot == "image_encoder" and parameter.requires_grad), f"{slot}.{name}"
