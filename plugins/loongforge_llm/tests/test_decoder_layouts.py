"""Decoders with head norms, windows, scaled and three-axis positions compute the same in every layout, padded and packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.config.slot_names import FOUNDATION
from loongforge_core.model.batch import Batch
from loongforge_core.registry import Registry
from loongforge_core.testing.layouts import Layout, check_layouts

VOCABULARY = 101
LONGEST = 13
TRAIN = {"lr": 1e-2, "steps": 2, "lr_warmup_steps": 1, "adam_eps": 1e-5, "seq_length": LONGEST}
SIZES: Mapping[str, Any] = {
    "num_layers": 2,
    "hidden_size": 16,
    "ffn_hidden_size": 24,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": VOCABULARY,
    "init_method_std": 0.2,
    "rotary_base": 100.0,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4}

MODELS: Mapping[str, Mapping[str, Any]] = {
    "head norms": {"type": "qwen3", "kv_channels": 6, "untie_embeddings_and_output_weights": False},
    "three axes": {"type": "qwen3", "kv_channels": 8, "mrope_section": [2, 1, 1], "mrope_interleaved": True},
    "window and yarn": {"type": "mistral", "sliding_window": 3, "rotary_scaling": YARN},
    "dynamic": {"type": "internlm2", "max_position_embeddings": 6, "rotary_scaling": {"type": "dynamic", "factor": 2.0}},
}
LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    # Ranks see different heads: the gradient of the norms that these share is a sum over them, with sequence parallelism and without.
    "head norms": (Layout(tensor=2), Layout(tensor=2, sequence_parallel=True), Layout(pipeline=2), Layout(data=2)),
    "three axes": (Layout(tensor=2, sequence_parallel=True), Layout(pipeline=2)),
    "window and yarn": (Layout(tensor=2, sequence_parallel=True), Layout(pipeline=2)),
    "dynamic": (Layout(data=2, optimizer="distributed"),),
}


def composition(model: Mapping[str, Any]) -> Composition:
    """Positions of three axes are given by hand here, not by the recipe: so that field is set after the check that the two agree."""
    axes = {name: value for name, value in model.items() if name.startswith("mrope")}
    fields = {**SIZES, **{name: value for name, value in model.items() if name not in axes}}
    checked = composition_from({"model": {FOUNDATION: fields}, "train": TRAIN}, Registry.discover())
    slot = checked.slots[FOUNDATION]
    config = type(slot.config).model_validate({**slot.config.model_dump(), **axes})
    return replace(checked, slots={FOUNDATION: replace(slot, config=config)})


def batch(*lengths: int, axes: int, seed: int, packed: bool = False) -> Batch:
    """Samples of so many tokens, two of three of them targets; on three axes at random positions."""
    random = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(VOCABULARY, (length,), generator=random) for length in lengths]
    targets = [(torch.arange(length) % 3 != 1).float() for length in lengths]
    positions = [torch.arange(length) if axes == 1 else torch.randint(40, (length, axes), generator=random) for length in lengths]

    def rows(samples: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(samples)[None] if packed else pad_sequence(samples, batch_first=True)

    position_ids = rows(positions)
    token_ids_bs = rows(tokens)
    return Batch(
        token_ids_bs=token_ids_bs,
        labels_bs=token_ids_bs.roll(-1, 1),
        loss_mask_bs=rows(targets),
        position_ids=position_ids if axes == 1 else position_ids.permute(2, 0, 1),
        lengths=lengths if packed else None,
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_layout_equals_one_process(name: str) -> None:
    model = composition(MODELS[name])
    assert model.foundation is not None
    axes = model.foundation.position_axes
    steps = [
        [
            batch(5, axes=axes, seed=10 * step),
            batch(9, 3, axes=axes, seed=10 * step + 1),
            batch(4, 7, 2, axes=axes, seed=10 * step + 2, packed=True),
            batch(LONGEST, 6, axes=axes, seed=10 * step + 3),
        ]
        for step in range(2)
    ]
    check_layouts(model, LAYOUTS[name], steps)


def test_tensor_ranks_that_share_a_key_share_its_norm() -> None:
    model = composition({**MODELS["head norms"], "num_query_groups": 1})
    steps = [[batch(9, 3, axes=1, seed=step)] for step in range(2)]
    check_layouts(model, LAYOUTS["head norms"][:2], steps)
