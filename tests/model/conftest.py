"""A small LLaVA, its parts alone, and micro-batches written by hand of samples as in `samples.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from samples import IMAGE, TOKENS_OF_AN_IMAGE

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry import Registry

MODEL: Mapping[str, Any] = {
    "model_type": "llava",
    "image_encoder": {
        "type": "siglip",
        "image_size": 8,
        "patch_size": 4,
        "num_layers": 2,
        "hidden_size": 16,
        "ffn_hidden_size": 32,
        "num_attention_heads": 2,
        "attention_pooling_head": False,
        "init_method_std": 0.1,
    },
    "image_projector": {"type": "mlp", "init_method_std": 0.1},
    "foundation": {
        "type": "qwen2",
        "num_layers": 2,
        "hidden_size": 16,
        "ffn_hidden_size": 32,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "vocab_size": 40,
        "init_method_std": 0.1,
    },
}

Tree = Mapping[str, Any]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    with single_process():
        yield


@pytest.fixture
def compose(registry: Registry) -> Callable[..., Composition]:
    """The composition of these slots of `MODEL` (all, where none is named), with keys changed: `foundation={"num_layers": 3}`."""

    def compose(*slots: str, train: Tree | None = None, **changes: Tree) -> Composition:
        names = slots or ("image_encoder", "image_projector", "foundation")
        model = {name: {**MODEL[name], **changes.get(name, {})} for name in names}
        model_type = MODEL["model_type"] if "image_projector" in names else "default"
        return composition_from({"model": {"model_type": model_type, **model}, "train": dict(train or {})}, registry)

    return compose


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """The samples as one micro-batch, padded with token 0; every second token is a target. Pixels are drawn by the images' numbers."""

    def batch_of(*samples: Sequence[int], first_image: int = 0) -> Batch:
        expanded = [
            [part for token in sample for part in ([IMAGE] * TOKENS_OF_AN_IMAGE if token == IMAGE else [token])] for sample in samples
        ]
        length = max(map(len, expanded))
        token_ids_bs = torch.tensor([row + [0] * (length - len(row)) for row in expanded])
        real_bs = torch.tensor([[1.0] * (len(row) - 1) + [0.0] * (length - len(row) + 1) for row in expanded])
        labels_bs = token_ids_bs.roll(-1, 1).clamp(min=0)
        sample_N, position_N = (token_ids_bs == PLACEHOLDER_ID).nonzero(as_tuple=True)
        count = len(sample_N) // TOKENS_OF_AN_IMAGE
        pixels = [torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(first_image + image)) for image in range(count)]
        return Batch(
            token_ids_bs=token_ids_bs,
            labels_bs=labels_bs,
            loss_mask_bs=real_bs * (torch.arange(length) % 2),
            position_ids=torch.arange(length).expand(len(samples), length),
            items={"image": Items({"pixel_values": torch.cat(pixels)}, ((8, 8),) * count)} if count else {},
            placements={"image": Placement(sample_N, position_N)} if count else {},
        )

    return batch_of
