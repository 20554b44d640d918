"""Initial weights follow from seed and names, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from loongforge_core.component import Initial, InitialValues
from loongforge_core.config.composition import Composition
from loongforge_core.errors import PluginError
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.initialise import initialise
from loongforge_core.registry import Registry

Compose = Callable[..., Composition]


def weights(composition: Composition, registry: Registry) -> dict[str, Tensor]:
    components = OmniModelProvider(composition=composition, registry=registry)().components()
    return {f"{slot}.{name}": tensor.detach().clone() for slot, part in components.items() for name, tensor in part.named_parameters()}


def test_the_seed_decides_and_nothing_else_does(compose: Compose, registry: Registry) -> None:
    first = weights(compose(train={"seed": 3}), registry)
    torch.rand(7)
    again, other = weights(compose(train={"seed": 3}), registry), weights(compose(train={"seed": 4}), registry)
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    constant = {name for name in first if torch.equal(first[name], other[name])}
    assert all(first[name].unique().numel() == 1 for name in constant) and len(constant) < len(first)


def test_a_component_does_not_notice_the_others(compose: Compose, registry: Registry) -> None:
    whole = weights(compose(), registry)
    for slot in ("image_encoder", "foundation"):
        alone = weights(compose(slot), registry)
        assert alone and all(torch.equal(tensor, whole[name]) for name, tensor in alone.items())
    longer = weights(compose(foundation={"num_layers": 3}), registry)
    assert all(torch.equal(longer[name], tensor) for name, tensor in whole.items())


def test_tensors_of_one_shape_are_drawn_apart(compose: Compose, registry: Registry) -> None:
    found = weights(compose(), registry)
    drawn = [tensor for tensor in found.values() if tensor.unique().numel() > 1]
    assert len({tuple(tensor.flatten()[:8].tolist()) for tensor in drawn}) == len(drawn)


def test_every_parameter_comes_from_its_distribution(compose: Compose, registry: Registry) -> None:
    """Memory is filled with a number that no distribution gives, and none of it is left."""
    provider = OmniModelProvider(composition=compose(), registry=registry)
    model = provider.build(provider.context(provider().foundation.context.groups, True, True, None))
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 123.0)
    initialise(model.components(), seed=1)
    for slot, component in model.components().items():
        for name, parameter in component.named_parameters():
            assert not (parameter == 123.0).any(), f"{slot}.{name}"
            if name.endswith("bias"):
                assert not parameter.any(), name
            elif "norm" in name:
                assert (parameter == 1).all(), name
            elif parameter.numel() > 500:
                assert parameter.std().item() == pytest.approx(0.1, rel=0.15), name


def test_a_parameter_without_a_distribution_is_an_error(compose: Compose, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    model = OmniModelProvider(composition=compose(), registry=registry)()
    values = InitialValues({"*.weight": Initial("uniform", 0.5)})
    monkeypatch.setattr(type(model.components()["foundation"]), "initial_values", lambda _: values)
    with pytest.raises(
        PluginError, match=r"slot foundation says nothing of the initial value of 'decoder\..*bias'.*patterns for \*\.weight"
    ):
        initialise({"foundation": model.components()["foundation"]}, seed=1)
    name, tensor = next(iter(model.components()["foundation"].named_parameters()))
    assert name.endswith("weight") and 0.4 < tensor.abs().max() <= 0.5


def test_given_values_are_taken_as_they_are(compose: Compose, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    foundation = OmniModelProvider(composition=compose(), registry=registry)().components()["foundation"]
    table = Initial("given", values=lambda shape: np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    monkeypatch.setattr(type(foundation), "initial_values", lambda _: InitialValues({"*": table}))
    initialise({"foundation": foundation}, seed=1)
    weight = foundation.word_embeddings.weight
    assert torch.equal(weight, torch.arange(weight.numel(), dtype=torch.float32).view_as(weight))
