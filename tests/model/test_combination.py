"""Items go to their own samples; what a batch does not have costs nothing but a zero; parts of a model are models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from samples import FIRST_IMAGES, IMAGE, SAMPLES
from torch import Tensor

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import Batch, Placement
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry

Compose = Callable[..., Composition]
BatchOf = Callable[..., Batch]


def build(composition: Composition, registry: Registry) -> OmniCombinationModel:
    return OmniModelProvider(composition=composition, registry=registry)()


def loss_of(model: OmniCombinationModel, batch: Batch) -> Tensor:
    total, count = model.recipe.loss(model(batch), batch.loss_mask_bs)
    return total / count


def gradients(model: OmniCombinationModel) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 2), (2, 3), (3, 1, 0, 2)])
def test_a_sample_sees_only_its_own_items(compose: Compose, registry: Registry, batch_of: BatchOf, order: tuple[int, ...]) -> None:
    """Logits and losses of samples of unequal length and number of items, together and each alone."""
    model = build(compose(), registry)
    alone = [batch_of(SAMPLES[index], first_image=FIRST_IMAGES[index]) for index in order]
    together = batch_of(*(SAMPLES[index] for index in order))
    if any("image" in batch.items for batch in alone):
        pixels = torch.cat([batch.items["image"].inputs["pixel_values"] for batch in alone if batch.items])
        together.items["image"].inputs["pixel_values"][:] = pixels  # type: ignore[index]
    with torch.no_grad():
        logits, losses = model(together, with_labels=False), model(together)
        for row, batch in enumerate(alone):
            length = batch.token_ids_bs.shape[1]
            torch.testing.assert_close(logits[row, :length], model(batch, with_labels=False)[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(losses[row, : length - 1], model(batch)[0, :-1], atol=1e-5, rtol=1e-5)


def test_one_encoder_takes_items_of_two_modalities(compose: Compose, batch_of: BatchOf) -> None:
    """Half of the images called videos: the same logits and the same gradients."""
    registry = Registry.discover()
    registry.register(replace(registry.component("encoder", "siglip"), name="both", modalities=("image", "video")))
    slots = {name: slot.config.model_dump(exclude_unset=True) for name, slot in compose().slots.items()}
    slots["image_encoder"] |= {"type": "both", "also_encodes": ["video"]}
    composition = composition_from(
        {"model": {**slots, "image_projector": {"type": "mlp"}, "foundation": {"type": "qwen2", **slots["foundation"]}}}, registry
    )
    batch = batch_of(*SAMPLES)
    numbers = {}
    for videos in ((), (0, 3), (1, 2), range(5)):
        model = build(composition, registry)
        given = renamed(batch, set(videos))
        assert set(given.items) == {"image", "video"} if 0 < len(videos) < 5 else len(given.items) == 1
        loss = loss_of(model, given)
        loss.backward()
        numbers[tuple(videos)] = loss, gradients(model)
    (expected_loss, expected), *others = numbers.values()
    for loss, given_gradients in others:
        torch.testing.assert_close(loss, expected_loss)
        torch.testing.assert_close(given_gradients, expected)


def renamed(batch: Batch, videos: set[int]) -> Batch:
    """The batch with the images of these numbers as videos."""
    pixels, place = batch.items["image"].inputs["pixel_values"], batch.placements["image"]
    items, placements = {}, {}
    for modality, numbers in (("image", [n for n in range(len(pixels)) if n not in videos]), ("video", sorted(videos))):
        if numbers:
            rows = torch.cat([torch.arange(4) + 4 * number for number in numbers])
            items[modality] = Items({"pixel_values": pixels[numbers]}, ((8, 8),) * len(numbers))
            placements[modality] = Placement(place.sample_N[rows], place.position_N[rows])
    return replace(batch, items=items, placements=placements)


def test_every_item_matters_where_it_stands(compose: Compose, registry: Registry, batch_of: BatchOf) -> None:
    """Another image changes the logits from its place on in its own sample, and nothing else."""
    model = build(compose(), registry)
    batch = batch_of([5, IMAGE, 6, IMAGE, 7], [8, IMAGE, 9, 10, 11])
    with torch.no_grad():
        before = model(batch, with_labels=False).clone()
        batch.items["image"].inputs["pixel_values"][1] += 1.0  # the second of the first sample
        changed = (model(batch, with_labels=False) - before).abs().amax(-1) > 1e-6
    second = 1 + 4 + 1
    assert not changed[0, :second].any() and changed[0, second:].all() and not changed[1].any()


def test_an_encoder_that_saw_nothing_has_a_gradient_of_zero(compose: Compose, registry: Registry, batch_of: BatchOf) -> None:
    model = build(compose(), registry)
    loss_of(model, batch_of([5, 6, 7, 8], [9, 10, 11])).backward()
    for name, gradient in gradients(model).items():
        assert gradient is not None, name
        assert bool(gradient.any()) != name.startswith("encoder."), name


def test_a_mixture_of_batches_with_and_without_items_trains(compose: Compose, registry: Registry, batch_of: BatchOf) -> None:
    model = build(compose(), registry)
    batches = [batch_of(*SAMPLES), batch_of([5, 6, 7, 8], [9, 10, 11]), batch_of([IMAGE, 12, 13, 14])]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        losses.append(loss_of(model, batches[step % 3]))
        losses[-1].backward()
        optimizer.step()
    first, last = torch.stack(losses[:3]).mean(), torch.stack(losses[-3:]).mean()
    assert last < 0.6 * first


def test_a_foundation_alone_is_a_language_model_that_trains(compose: Compose, registry: Registry, batch_of: BatchOf) -> None:
    model = build(compose("foundation"), registry)
    assert model.encoder is None and list(model.components()) == ["foundation"]
    batch, optimizer = batch_of([5, 6, 7, 8], [9, 10, 11]), torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(loss_of(model, batch))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_an_encoder_alone_gives_features(compose: Compose, registry: Registry, batch_of: BatchOf) -> None:
    model = build(compose("image_encoder"), registry)
    assert model.foundation is None
    batch = batch_of([IMAGE, IMAGE])
    features = model.encode(batch)["image"]
    assert features.hidden_NW.shape == (8, 16) and features.grids == ((2, 2), (2, 2))
    whole = build(compose(), registry)  # the same encoder, with the same initial weights
    torch.testing.assert_close(features.hidden_NW, whole.components()["image_encoder"](batch.items["image"]).hidden_NW)
