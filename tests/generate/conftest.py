"""A small model that has memorised a handful of questions with no, one and two images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loongforge_core.config.check import load_composition
from loongforge_core.config.composition import Composition
from loongforge_core.data.collate import collate
from loongforge_core.data.conversations import Conversation, ItemReference, Message
from loongforge_core.data.sample import SampleMaker
from loongforge_core.data.training_data import load_sample_maker
from loongforge_core.generate.greedy import GreedyDecoder
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry import Registry


def conversation(question: str, answer: str, images: list[Path], kind: str = "") -> Conversation:
    parts = [*(ItemReference("image", path) for path in images), question]
    return Conversation((Message("user", tuple(parts)), Message("assistant", (answer,))), where=question, kind=kind)


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> list[Conversation]:
    """Of unequal lengths, with answers of unequal lengths."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    images = [folder / f"{number}.png" for number in range(4)]
    for path in images:
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return [
        conversation("Read.", "7", images[:1], "one"),
        conversation("Read this, please.", "seventeen", images[1:2], "one"),
        conversation("Sum?", "12", images[2:], "two"),
        conversation("Sum of these two?", "3", images[:2], "two"),
        conversation("1+1?", "2", [], "text"),
        conversation("A longer question without images", "no", []),
    ]


@pytest.fixture(scope="session")
def composition() -> Composition:
    return load_composition("digits", registry=Registry.discover())


@pytest.fixture(scope="session")
def maker(composition: Composition) -> SampleMaker:
    return load_sample_maker(composition, Registry.discover())


@pytest.fixture(scope="module")  # not longer: tests of other folders join process groups of their own
def memorised(composition: Composition, maker: SampleMaker, conversations: list[Conversation]) -> Iterator[OmniCombinationModel]:
    with single_process(seed=1):
        model = OmniModelProvider(composition=composition, registry=Registry.discover())()
        batch = collate([maker.sample(each) for each in conversations])
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        for _ in range(60):
            total, count = model.recipe.loss(model(batch), batch.loss_mask_bs)
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
        yield model


@pytest.fixture
def decoder(maker: SampleMaker, memorised: OmniCombinationModel) -> GreedyDecoder:
    return GreedyDecoder(maker, memorised, max_new_tokens=12)
