"""What is frozen is the same in every layout, also where a pipeline stage has nothing to train."""

from __future__ import annotations

import pytest
from models import MLP, SIGLIP, batches, composition, language_model

from loongforge_core.errors import ConfigError
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.testing.layouts import Layout, check_layouts, trainer_in

STAGES = Layout(pipeline=2)


def test_layers_are_frozen_by_their_number_in_the_whole_model() -> None:
    """Each stage calls its own first layer 0."""
    check_layouts(language_model(tied=False, freeze=["decoder.layers.2.*", "output_layer.*"]), [STAGES], batches())


@pytest.mark.parametrize(
    "layout",
    [
        Layout(pipeline=2, encoder_stage=True, optimizer="overlapped"),
        Layout(data=2, tensor=2, pipeline=2, encoder_stage=True, optimizer="distributed"),
    ],
    ids=str,
)
def test_a_stage_with_nothing_to_train(layout: Layout) -> None:
    slots = {"image_encoder": {**SIGLIP, "freeze": True}, "image_projector": {**MLP, "freeze": True}}
    check_layouts(composition(slots, tied=False, freeze=["embedding.*"]), [layout], batches("image"))


def error_of(layout: Layout, freeze: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        trainer_in(language_model(tied=False, freeze=freeze), layout)
    return str(caught.value)


def test_a_pattern_that_matches_on_no_stage_is_an_error_on_all() -> None:
    first, second = run_ranks(error_of, 2, STAGES, ["embedding.*", "decoder.layers.4.*"])
    assert first == second
    assert first.startswith("model.foundation.freeze: freezing pattern 'decoder.layers.4.*' matches no parameter of the slot")


def test_nothing_that_trains_on_any_stage_is_an_error_on_all() -> None:
    for said in run_ranks(error_of, 2, STAGES, ["*"]):
        assert said.startswith("nothing trains: every parameter is frozen")
