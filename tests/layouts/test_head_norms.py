"""Norms of heads in an encoder, in the language model, or in both: each component's gradients are summed over its own tensor ranks.

Megatron asks the language model whether there are any, and then sums over its ranks whatever is called so.
"""

from __future__ import annotations

import pytest
from models import batches, composition

from loongforge_core.testing.layouts import Layout, check_layouts

LAYOUTS = (
    Layout(tensor=2),
    Layout(tensor=2, encoders={"image_encoder": 2}),
    Layout(tensor=2, encoders={"image_encoder": 2}, sequence_parallel=True, optimizer="distributed"),
)


@pytest.mark.parametrize("language_model", ["qwen3", "qwen2"])
@pytest.mark.parametrize("over_all_heads", [False, True], ids=["head by head", "over all heads"])
def test_an_encoder_in_front_of_a_language_model(over_all_heads: bool, language_model: str) -> None:
    encoder = {"type": "head_norms", "over_all_heads": over_all_heads}
    model = composition({"image_encoder": encoder}, tied=False, type=language_model, num_layers=1, kv_channels=4)
    check_layouts(model, LAYOUTS, [step[:3] for step in batches("image")[:2]])
