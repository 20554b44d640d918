"""Levels: features of earlier encoder layers, added at decoder layers (DeepStack)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import IMAGE
from torch import Tensor, nn

from loongforge_core.component import ComponentSpec, EncoderConfig, Shape
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.errors import PluginError
from loongforge_core.layers.interfaces import BuildContext, Encoder, Features, Items
from loongforge_core.model.batch import Batch
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.merge import scatter_level
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry

WIDTH = 16


class TwoLevelConfig(EncoderConfig):
    """Four tokens an image, as wide as the decoder, and two levels."""

    @property
    def feature_size(self) -> int:
        return WIDTH

    def token_grid(self, size: Shape) -> Shape:
        return (2, 2)

    @property
    def num_levels(self) -> int:
        return 2


class TwoLevelEncoder(Encoder[TwoLevelConfig]):
    def __init__(self, config: TwoLevelConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.features, self.first, self.second = (nn.Linear(3 * 16, WIDTH) for _ in range(3))

    def forward(self, items: Items) -> Features:
        pixels_NP = items.inputs["pixel_values"].unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
        return Features(self.features(pixels_NP), ((2, 2),) * len(items), (self.first(pixels_NP), self.second(pixels_NP)))


@pytest.fixture
def registry() -> Registry:
    registry = Registry.discover()
    registry.register(
        ComponentSpec(
            kind="encoder",
            name="two_levels",
            summary="emits two levels",
            modalities=("image",),
            config=f"{__name__}:TwoLevelConfig",
            model=f"{__name__}:TwoLevelEncoder",
        )
    )
    return registry


@pytest.fixture
def build(compose: Callable[..., Composition], registry: Registry) -> Callable[[str], OmniCombinationModel]:
    foundation = dict(compose("foundation").resolved["model"]["foundation"])

    def build(recompute: str) -> OmniCombinationModel:
        model = {"image_encoder": {"type": "two_levels"}, "foundation": foundation}
        composition = composition_from({"model": model, "train": {"recompute": recompute}}, registry)
        return OmniModelProvider(composition=composition, registry=registry)().train()

    return build


def loss_and_gradients(model: OmniCombinationModel, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
    total, count = model.recipe.loss(model(batch), batch.loss_mask_bs)
    (total / count).backward()
    return total / count, {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_level_i_is_added_after_decoder_layer_i(
    build: Callable[[str], OmniCombinationModel], batch_of: Callable[..., Batch], recompute: str
) -> None:
    """Against hooks that add them by hand, where the encoder's own levels are switched off."""
    batch = batch_of([5, IMAGE, 6, 7, IMAGE, 8], [9, 10, 11], [IMAGE, 12])
    loss, gradients = loss_and_gradients(build(recompute), batch)

    by_hand = build("none")
    assert by_hand.encoder is not None and by_hand.foundation is not None
    encoder = by_hand.encoder.slots["image_encoder"]
    levels: list[Tensor] = []

    def keep_levels(_: nn.Module, __: Any, features: Features) -> Features:
        levels[:] = features.levels
        return Features(features.hidden_NW, features.grids)

    def add(index: int) -> Callable[..., Any]:
        def hook(_: nn.Module, __: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
            return output[0] + scatter_level(levels[index], batch.placements["image"], output[0]), output[1]

        return hook

    encoder.register_forward_hook(keep_levels)
    for index, layer in enumerate(by_hand.foundation.decoder.layers):
        layer.register_forward_hook(add(index))
    expected_loss, expected = loss_and_gradients(by_hand, batch)

    torch.testing.assert_close(loss, expected_loss)
    assert gradients.keys() == expected.keys()
    assert {name for name in gradients if name.startswith("encoder.")} and all(gradient.any() for gradient in gradients.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_a_batch_without_items_has_no_levels_and_zero_gradients(
    build: Callable[[str], OmniCombinationModel], batch_of: Callable[..., Batch]
) -> None:
    _, gradients = loss_and_gradients(build("none"), batch_of([5, 6, 7, 8]))
    encoder = {name: gradient for name, gradient in gradients.items() if name.startswith("encoder.")}
    assert len(encoder) == 6 and not any(gradient.any() for gradient in encoder.values())


class ForgetfulEncoder(TwoLevelEncoder):
    """Leaves a parameter out of its description."""

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        described = super().sharded_state_dict(*args, **kwargs)
        return {name: part for name, part in described.items() if not name.endswith("first.bias")}


class MiserlyEncoder(TwoLevelEncoder):
    """Emits one row for all places, which torch would spread over them."""

    def forward(self, items: Items) -> Features:
        features = super().forward(items)
        return Features(features.hidden_NW[:1], features.grids, features.levels)


def test_a_parameter_that_is_not_described_is_an_error(
    build: Callable[[str], OmniCombinationModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "TwoLevelEncoder", ForgetfulEncoder)
    with pytest.raises(PluginError, match=r"slot image_encoder leaves parameters out of its `sharded_state_dict`: first\.bias$"):
        build("none")


def test_rows_that_are_not_as_many_as_places_are_an_error(
    build: Callable[[str], OmniCombinationModel], batch_of: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "TwoLevelEncoder", MiserlyEncoder)
    with pytest.raises(PluginError, match="the encoder of image and what follows it gave 1 rows of features for the 4 places"):
        build("none")(batch_of([5, IMAGE, 6]))
