"""In front of a language model, in any layout, the audio encoders compute what one process computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement
from loongforge_core.registry.registry import Registry
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
TRAIN = {"lr": 1e-2, "steps": 2, "lr_warmup_steps": 1, "adam_eps": 1e-5}

# Micro-batches of two steps: the frames of each sample's sounds. One rank of two has none in the second step.
SOUNDS: Sequence[Sequence[Sequence[Sequence[int]]]] = (
    ([[7], [24, 3]], [[], []], [[12], [12]], [[]]),
    ([[], []], [[]], [[5, 18], []], [[24], [23]]),
)


def composition(encoder: str) -> Composition:
    model = {
        "audio_encoder": {"type": encoder, **ENCODER},
        "audio_projector": {"type": "frame_stack", "stack_size": 2, "init_method_std": 0.1},
        "foundation": FOUNDATION,
    }
    return composition_from({"model": model, "train": TRAIN}, Registry.discover())


def micro_batch(chosen: Composition, sounds: Sequence[Sequence[int]], seed: int) -> Batch:
    """A sample for each of `sounds`: a token, its sounds, six tokens. Two of three tokens are targets."""
    random = torch.Generator().manual_seed(seed)
    config = chosen.encoder("audio")
    sizes = [config.fixed_item_size or (frames,) for sample in sounds for frames in sample]
    rows = []
    for sample in sounds:
        tokens = torch.randint(0, 50, (7,), generator=random)
        count = sum(chosen.item_grid("audio", config.fixed_item_size or (frames,))[0] for frames in sample)
        rows.append(torch.cat((tokens[:1], torch.full((count,), PLACEHOLDER_ID), tokens[1:])))
    token_ids_bs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    places = torch.arange(token_ids_bs.shape[1])
    real_bs = places < torch.tensor([[len(row) - 1] for row in rows])
    features = torch.randn(sum(map(config.num_rows, sizes)), 6, generator=random)
    return Batch(
        token_ids_bs=token_ids_bs,
        labels_bs=token_ids_bs.roll(-1, 1).clamp(min=0),
        loss_mask_bs=(real_bs & (places % 3 != 1)).float(),
        position_ids=places.repeat(len(rows), 1),
        items={"audio": Items({"input_features": features}, tuple(sizes))} if sizes else {},
        placements={"audio": Placement(*(token_ids_bs == PLACEHOLDER_ID).nonzero(as_tuple=True))} if sizes else {},
    )


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
    batches = [[micro_batch(chosen, sounds, 10 * step + index) for index, sounds in enumerate(each)] for step, each in enumerate(SOUNDS)]
    deviations = check_layouts(chosen, layouts, batches)
    assert {deviation.what for deviation in deviations} == {"initial weights", "loss", "gradients", "gradient norm", "weights"}
