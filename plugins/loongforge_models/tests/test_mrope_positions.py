"""Position ids of the Qwen-VL recipes: those of transformers, for random samples of text, images and videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from loongforge_models.qwen2_5_vl.config import TOKENS_PER_SECOND, Qwen25VlRecipeConfig
from loongforge_models.qwen3_vl.config import Qwen3VlRecipeConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from loongforge_core.component import ItemSpan
from loongforge_core.errors import PluginError

TYPES = {"image": 1, "video": 2}
MERGE = 2
TEXT = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}
TEXT |= {"vocab_size": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
VISION = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1, "out_hidden_size": 8, "patch_size": 2}

SECONDS = (1.0, 0.5, 1 / 3, 2 / 2.4, 2 / 29.97, 5.0)
"""Between a video's steps; of 2 / 2.4 the third multiple is a whole number in single precision only."""


@pytest.fixture(scope="module")
def qwen2_5_vl() -> Any:
    vision = {**VISION, "tokens_per_second": TOKENS_PER_SECOND, "fullatt_block_indexes": [0]}
    return Qwen2_5_VLModel(transformers.Qwen2_5_VLConfig(text_config=TEXT, vision_config=vision))


@pytest.fixture(scope="module")
def qwen3_vl() -> Any:
    vision = {**VISION, "num_position_embeddings": 4, "deepstack_visual_indexes": [0]}
    return Qwen3VLModel(transformers.Qwen3VLConfig(text_config={**TEXT, "head_dim": 8}, vision_config=vision))


def random_items(random: np.random.Generator) -> list[tuple[str, tuple[int, int, int], float]]:
    """Modality, grid behind the projector, seconds between steps."""
    return [
        (
            modality := str(random.choice(["image", "video"])),
            (1 if modality == "image" else int(random.integers(1, 6)), int(random.integers(1, 7)), int(random.integers(1, 7))),
            float(random.choice(SECONDS)),
        )
        for _ in range(random.integers(0, 5))
    ]


def sample(
    items: Sequence[tuple[str, tuple[int, int, int], float]], random: np.random.Generator, *, by_step: bool
) -> tuple[list[int], list[ItemSpan]]:
    """The type of every token, and where items stand: each behind some text; `by_step`: each step of a video too."""
    types: list[int] = []
    spans: list[ItemSpan] = []
    for modality, grid, seconds in items:
        for step in range(grid[0] if by_step else 1):
            types += [0] * int(random.integers(1, 5))
            run = (1, *grid[1:]) if by_step else grid
            spans.append(ItemSpan(modality, len(types), run, {"seconds_per_step": seconds}, continues=step > 0))
            types += [TYPES[modality]] * spans[-1].num_tokens
    return types + [0] * int(random.integers(1, 5)), spans


def expected(model: Any, types: list[int], items: Sequence[tuple[str, tuple[int, int, int], float]], **more: Any) -> np.ndarray:
    grids = {
        name: torch.tensor([(steps, rows * MERGE, columns * MERGE) for each, (steps, rows, columns), _ in items if each == name])
        for name in TYPES
    }
    ids = torch.zeros((1, len(types)), dtype=torch.long)
    position_ids, _ = model.get_rope_index(
        ids,
        mm_token_type_ids=torch.tensor([types]),
        image_grid_thw=grids["image"] if len(grids["image"]) else None,
        video_grid_thw=grids["video"] if len(grids["video"]) else None,
        **more,
    )
    return np.asarray(position_ids[:, 0])


def test_qwen2_5_vl_counts_time_by_the_second(qwen2_5_vl: Any) -> None:
    recipe, random = Qwen25VlRecipeConfig(), np.random.default_rng(1)
    for _ in range(100):
        items = random_items(random)
        types, spans = sample(items, random, by_step=False)
        seconds = torch.tensor([each for modality, _, each in items if modality == "video"])
        theirs = expected(qwen2_5_vl, types, items, second_per_grid_ts=seconds)
        np.testing.assert_array_equal(recipe.position_ids(len(types), spans), theirs)


def test_qwen3_vl_counts_a_step_like_an_image(qwen3_vl: Any) -> None:
    recipe, random = Qwen3VlRecipeConfig(), np.random.default_rng(2)
    for _ in range(100):
        items = random_items(random)
        types, spans = sample(items, random, by_step=True)
        np.testing.assert_array_equal(recipe.position_ids(len(types), spans), expected(qwen3_vl, types, items))


def test_an_answer_goes_on_behind_the_last_item() -> None:
    """While an answer grows, positions are asked for more tokens than the prompt has."""
    recipe, spans = Qwen3VlRecipeConfig(), [ItemSpan("image", 2, (1, 2, 3))]
    prompt, longer = recipe.position_ids(9, spans), recipe.position_ids(12, spans)
    np.testing.assert_array_equal(longer[:, :9], prompt)
    assert longer[:, 8:].tolist() == [[5, 6, 7, 8]] * 3


def test_a_video_without_times_is_an_error() -> None:
    with pytest.raises(PluginError, match=r"when each of a video's 3 steps was seen, but its processor says \(0.5,\)"):
        Qwen3VlRecipeConfig().runs("video", (3, 2, 2), {"timestamps": (0.5,)})
