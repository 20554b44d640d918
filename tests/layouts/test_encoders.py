"""What every rank holds of an encoder and what it encodes, so that an encoder that is silently copied, or idle, is noticed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from models import batches, two_encoders

from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import Batch
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.testing.layouts import Layout, share, trainer_in

WHOLE = {
    "image_encoder.transformer.layers.0.mlp.linear_fc1.weight": (32, 16),
    "image_encoder.transformer.layers.0.mlp.linear_fc2.weight": (16, 32),
    "image_encoder.transformer.layers.0.self_attention.linear_qkv.weight": (48, 16),
    "image_encoder.transformer.layers.0.self_attention.linear_proj.weight": (16, 16),
    "image_encoder.transformer.layers.0.input_layernorm.weight": (16,),
    "image_projector.linear_1.weight": (16, 16),
    "video_encoder.inner.weight": (32, 48),
    "video_encoder.outer.weight": (16, 32),
    "video_encoder.outer.bias": (16,),
}
SPLIT = {
    "image_encoder.transformer.layers.0.mlp.linear_fc1.weight": 0,
    "image_encoder.transformer.layers.0.mlp.linear_fc2.weight": 1,
    "image_encoder.transformer.layers.0.self_attention.linear_qkv.weight": 0,
    "image_encoder.transformer.layers.0.self_attention.linear_proj.weight": 1,
    "video_encoder.inner.weight": 0,
    "video_encoder.outer.weight": 1,
}
"""The axis along which tensor ranks share a parameter; the others, and our projector, are whole on each."""


@dataclass(frozen=True)
class Seen:
    """Of one rank."""

    data_rank: int
    stage: int
    shapes: dict[str, tuple[int, ...]]
    items: dict[str, list[float]]
    """By modality, the first pixel of every item that this rank encoded in a step."""


def seen_here(layout: Layout, step: Sequence[Batch]) -> Seen:
    trainer = trainer_in(two_encoders(tied=True, freeze=False), layout)
    (model,) = trainer.models
    items: dict[str, list[float]] = {"image": [], "video": []}
    for modality, found in items.items() if model.encoder else ():

        def note(_: object, inputs: tuple[Items], found: list[float] = found) -> None:
            found += inputs[0].inputs["pixel_values"][:, 0, 0, 0].tolist()

        model.encoder.slots[f"{modality}_encoder"].register_forward_pre_hook(note)
    groups = trainer.groups
    trainer.forward_backward(share(step, groups.dp.rank(), layout.data))
    slots = {slot: component for slot, component in model.components().items() if slot != "foundation"}
    shapes = {
        f"{slot}.{name}": tuple(parameter.shape) for slot, component in slots.items() for name, parameter in component.named_parameters()
    }
    return Seen(groups.dp.rank(), groups.pp.rank(), shapes, items)


@pytest.mark.parametrize(
    "layout",
    [
        Layout(tensor=2),
        Layout(tensor=2, encoders={"image_encoder": 2}),
        Layout(tensor=4, encoders={"image_encoder": 2, "video_encoder": 4}),
        Layout(data=2, tensor=2, sequence_parallel=True, encoders={"video_encoder": 2}),
        Layout(tensor=2, pipeline=3, encoder_stage=True, encoders={"image_encoder": 2}),
    ],
    ids=str,
)
def test_what_every_rank_holds_and_encodes(layout: Layout) -> None:
    with_items = batches("image", "video")
    step = with_items[0][:3] + with_items[1][3:]  # items for both data-parallel ranks
    ranks = run_ranks(seen_here, layout.world_size, layout, step)
    for rank in ranks:
        if rank.stage:
            assert not rank.shapes
            assert rank.items == {"image": [], "video": []}
            continue
        for name, shape in WHOLE.items():
            modality = name.partition("_")[0]
            size = layout.encoders.get(f"{modality}_encoder", 1)
            expected = tuple(length // size if axis == SPLIT.get(name) else length for axis, length in enumerate(shape))
            assert rank.shapes[name] == expected, name
        for modality, found in rank.items.items():
            mine = [batch.items[modality] for batch in share(step, rank.data_rank, layout.data) if modality in batch.items]
            assert found == [pixel for items in mine for pixel in items.inputs["pixel_values"][:, 0, 0, 0].tolist()]
            assert found, "this test has items for every data-parallel rank"
