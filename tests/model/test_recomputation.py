"""Activations that are computed again change no number, whatever is frozen in front of what trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from samples import SAMPLES
from torch import Tensor

from loongforge_core.config.composition import Composition
from loongforge_core.model.batch import Batch
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry

FROZEN: Mapping[str, Mapping[str, Any]] = {
    "nothing": {},
    "the encoder's embeddings": {"image_encoder": {"freeze": ["patch_embedding*", "position_embedding*"]}},
    "all in front of the decoder": {
        "image_encoder": {"freeze": True},
        "image_projector": {"freeze": True},
        "foundation": {"freeze": ["embedding.*"]},
    },
    "a tied table, and all in front": {
        "image_encoder": {"freeze": True},
        "image_projector": {"freeze": True},
        "foundation": {"freeze": ["embedding.*"], "untie_embeddings_and_output_weights": False},
    },
}


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_changes_no_number(
    compose: Callable[..., Composition], registry: Registry, batch_of: Callable[..., Batch], recompute: str, frozen: str
) -> None:
    found: list[tuple[Tensor, dict[str, Tensor | None]]] = []
    for setting in ("none", recompute):
        composition = compose(train={"recompute": setting}, **FROZEN[frozen])
        model = OmniModelProvider(composition=composition, registry=registry)().train()
        assert {"none": None}.get(setting, setting) == model.config.recompute_granularity
        batch = batch_of(*SAMPLES)
        loss, count = model.recipe.loss(model(batch), batch.loss_mask_bs)
        (loss / count).backward()
        found.append((loss, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}))
    (loss, expected), (recomputed_loss, recomputed) = found
    torch.testing.assert_close(recomputed_loss, loss, rtol=0, atol=0)
    assert any(gradient is not None and gradient.any() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-6, atol=1e-8, msg=name)
