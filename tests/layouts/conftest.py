"""Small compositions, and global batches of unequal micro-batches written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement
from loongforge_core.registry import Registry

IMAGE = -1
TOKENS_OF_AN_IMAGE = 4
VOCABULARY = 101

FOUNDATION: dict[str, Any] = {
    "type": "qwen2",
    "num_layers": 2,
    "hidden_size": 16,
    "ffn_hidden_size": 32,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": VOCABULARY,
    "init_method_std": 0.1,
}
# The gradient of a SigLIP's key bias is nothing but rounding, about 1e-9: with the usual 1e-8 Adam would make steps of it.
TRAIN = {"lr": 1e-2, "steps": 3, "lr_warmup_steps": 1, "adam_eps": 1e-6}


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture(scope="session")
def language_model(registry: Registry) -> Callable[..., Composition]:
    """A decoder alone; `tied`: its output layer is the embedding table."""

    def language_model(*, tied: bool, **changes: Any) -> Composition:
        foundation = {**FOUNDATION, "untie_embeddings_and_output_weights": not tied, **changes}
        return composition_from({"model": {"model_type": "default", "foundation": foundation}, "train": TRAIN}, registry)

    return language_model


@pytest.fixture(scope="session")
def text_batches() -> list[list[Batch]]:
    """Three steps of six micro-batches: one and two samples of 3 to 13 tokens, with 1 to 11 targets."""
    lengths = ([5], [9, 3], [12], [3], [7, 13], [4])
    return [[micro_batch(seed=10 * step + number, lengths=each) for number, each in enumerate(lengths)] for step in range(3)]


def micro_batch(*, seed: int, lengths: Sequence[int], images: Sequence[int] = ()) -> Batch:
    """Samples of so many tokens, drawn by `seed`; sample i has `images[i]` images behind its first. Two of three tokens are targets."""
    random = torch.Generator().manual_seed(seed)
    rows = []
    for sample, length in enumerate(lengths):
        row = torch.randint(0, VOCABULARY, (length,), generator=random)
        items = torch.full((TOKENS_OF_AN_IMAGE * images[sample] if images else 0,), IMAGE)
        rows.append(torch.cat((row[:1], items, row[1:])))
    token_ids_bs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    length = token_ids_bs.shape[1]
    real_bs = torch.arange(length) < torch.tensor([[len(row) - 1] for row in rows])
    sample_N, position_N = (token_ids_bs == PLACEHOLDER_ID).nonzero(as_tuple=True)
    pixels = torch.randn(sum(images), 3, 8, 8, generator=random)
    return Batch(
        token_ids_bs=token_ids_bs,
        labels_bs=token_ids_bs.roll(-1, 1).clamp(min=0),
        loss_mask_bs=(real_bs & (torch.arange(length) % 3 != 1)).float(),
        position_ids=torch.arange(length).repeat(len(rows), 1),
        items={"image": Items({"pixel_values": pixels}, ((8, 8),) * sum(images))} if sum(images) else {},
        placements={"image": Placement(sample_N, position_N)} if sum(images) else {},
    )


@pytest.fixture(scope="session")
def llava(registry: Registry) -> Callable[..., Composition]:
    """The digits model, narrower. `freeze`: of the image encoder."""

    def llava(*, freeze: bool | list[str] = False, tied: bool = False) -> Composition:
        encoder = {
            "type": "siglip",
            "image_size": 8,
            "patch_size": 4,
            "num_layers": 2,
            "hidden_size": 16,
            "ffn_hidden_size": 32,
            "num_attention_heads": 2,
            "attention_pooling_head": False,
            "init_method_std": 0.1,
            "freeze": freeze,
        }
        projector = {"type": "mlp", "init_method_std": 0.1}
        foundation = {**FOUNDATION, "untie_embeddings_and_output_weights": not tied}
        model = {"model_type": "llava", "image_encoder": encoder, "image_projector": projector, "foundation": foundation}
        return composition_from({"model": model, "train": TRAIN}, registry)

    return llava


@pytest.fixture(scope="session")
def image_batches() -> list[list[Batch]]:
    """Three steps of six micro-batches with none to three images; in the second step no image is among the last three, one rank's share."""
    lengths = ([5], [9, 3], [12], [3], [7, 13], [4])
    images = (([1], [0, 2], [0], [3], [0, 0], [1]), ([0], [1, 1], [2], [0], [0, 0], [0]), ([0], [0, 0], [0], [1], [2, 1], [0]))
    return [
        [micro_batch(seed=100 + 10 * step + number, lengths=lengths[number], images=each) for number, each in enumerate(row)]
        for step, row in enumerate(images)
    ]
