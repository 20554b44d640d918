"""In front of a language model, in any layout, the audio encoders compute what one process computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import Items
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.batches import batches_with_items
from loongforge_core.testing.layouts import Layout, check_layouts

FOUNDATION: dict[str, Any] = {
    "type": "qwen2",
    "num_layers": 2,
    "hidden_size": 16,
    "ffn_hidden_size": 32,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 50,
    "init_method_std": 0.1,
}
ENCODER: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 16,
    "ffn_hidden_size": 32,
    "num_attention_heads": 4,
    "num_mel_bins": 6,
    "max_source_positions": 12,
    "init_method_std": 0.1,
}
# The gradient of a key's bias is nothing but rounding: with the usual 1e-8 Adam would make steps of it.
TRAIN = {"lr": 1e-2, "steps": 2, "lr_warmup_steps": 1, "adam_eps": 1e-5}


def composition(encoder: str) -> Composition:
    model = {
        "audio_encoder": {"type": encoder, **ENCODER},
        "audio_projector": {"type": "frame_stack", "stack_size": 2, "init_method_std": 0.1},
        "foundation": FOUNDATION,
    }
    return composition_from({"model": model, "train": TRAIN}, Registry.discover())


LAYOUTS = [
    Layout(tensor=2, encoders={"audio_encoder": 2}),
    Layout(tensor=2, sequence_parallel=True),
    Layout(pipeline=2, encoder_stage=True),
    Layout(data=2),
    Layout(data=2, optimizer="distributed", recompute="full"),
]


@pytest.mark.parametrize(("encoder", "layouts"), [("qwen2_audio", LAYOUTS), ("whisper", LAYOUTS[:1])])
def test_every_layout_computes_what_one_process_does(encoder: str, layouts: list[Layout]) -> None:
    chosen = composition(encoder)
    config = chosen.encoder("audio")

    def draw(number: int, random: torch.Generator) -> Items:
        frames = torch.randint(3, 25, (number,), generator=random).tolist()
        sizes = tuple(config.fixed_item_size or (each,) for each in frames)
        return Items({"input_features": torch.randn(sum(map(config.num_rows, sizes)), 6, generator=random)}, sizes)

    deviations = check_layouts(chosen, layouts, batches_with_items(chosen, "audio", draw))
    assert {deviation.what for deviation in deviations} == {"initial weights", "loss", "gradients", "gradient norm", "weights"}
