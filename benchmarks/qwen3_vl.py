"""One training step of a small Qwen3-VL (forward, backward, AdamW) against `transformers` with its SDPA attention.

Once with samples that are all alike, once with samples of unequal length, ours packed into one row, theirs padded. Same weights, samples
and threads; neither clips gradients, and both are given their positions. Ours is the step that `loongforge train` takes, metrics included.
`--profile` shows where the time goes.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.utils import logging

from benchmarks.paired import profile, time_in_turn
from benchmarks.train_step import step_of_reference
from loongforge_core.component import ItemSpan, ProcessedItem, RecipeConfig, Shape
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.data.collate import collate, collate_packed
from loongforge_core.data.sample import Sample
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.train.step import build_trainer
from loongforge_core.weights.load import import_model

IMAGE_TOKEN, VOCABULARY, PATCH, MERGE = 2040, 2048, 4, 2
LEVELS = [0, 1, 2]


@dataclass(frozen=True)
class Case:
    name: str
    samples: Sequence[tuple[int, Sequence[tuple[int, int]]]]
    """Text tokens, and every image's rows and columns of patches."""
    collate: Callable[[Sequence[Sample]], Batch]


CASES = (
    Case("8 alike, 128 tokens", [(64, [(16, 16)])] * 8, collate),
    Case(
        "8 of 40 to 400 tokens, packed",
        [
            (40, []),
            (30, [(8, 10)]),
            (52, [(12, 8)]),
            (40, [(16, 20)]),
            (90, [(8, 8), (6, 12)]),
            (160, [(10, 12)]),
            (120, [(14, 18), (8, 16)]),
            (200, [(20, 20), (16, 24), (4, 4)]),
        ],
        collate_packed,
    ),
)


def reference() -> Qwen3VLForConditionalGeneration:
    shape = {"hidden_size": 256, "intermediate_size": 1024}
    vision = {"depth": 4, "num_heads": 8, "patch_size": PATCH, "out_hidden_size": 256, "num_position_embeddings": 256}
    rotary = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "vocab_size": VOCABULARY}
    config = Qwen3VLConfig(
        vision_config={**shape, **vision, "deepstack_visual_indexes": LEVELS},
        text_config={**shape, **text, "max_position_embeddings": 1024, "rope_parameters": rotary, "use_cache": False},
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    return Qwen3VLForConditionalGeneration(config).train()


def composition(number: int, registry: Registry) -> Composition:
    shape = {"num_layers": 4, "hidden_size": 256, "ffn_hidden_size": 1024, "num_attention_heads": 8}
    rotary = {"rotary_base": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text = {"num_query_groups": 4, "kv_channels": 32, "vocab_size": VOCABULARY, "max_position_embeddings": 1024}
    tower = {"patch_size": PATCH, "num_position_embeddings": 256, "deepstack_visual_indexes": LEVELS}
    return composition_from(
        {
            "model": {
                "model_type": "qwen3_vl",
                "image_encoder": {"type": "qwen3_vl", **shape, **tower},
                "image_projector": {"type": "patch_merger", "normalization": "LayerNorm"},
                "foundation": {"type": "qwen3", **shape, **text, **rotary},
            },
            "train": {
                "global_batch_size": number,
                "micro_batch_size": number,
                "seq_length": 1024,
                "clip_grad": 0.0,
                "lr_decay_style": "constant",
            },
        },
        registry,
    )


# ---- the samples, as ours are collated and as theirs are padded


def draw(
    recipe: RecipeConfig,
    text: int,
    images: Sequence[tuple[int, int]],
    random: np.random.Generator,
    *,
    patch: int = PATCH,
    words: int = IMAGE_TOKEN,
) -> Sample:
    """A few tokens, the images with a token before each, the rest of the text; every text token a target."""
    pieces, spans, items = [random.integers(0, words, text // 4)], [], []
    for rows, columns in images:
        size, grid = (1, rows, columns), (1, rows // MERGE, columns // MERGE)
        spans.append(ItemSpan("image", sum(map(len, pieces)), grid))
        items.append(item(size, random, patch))
        pieces.append(np.full(math.prod(grid), PLACEHOLDER_ID))
    pieces.append(random.integers(0, words, text - len(pieces[0])))
    token_ids = np.concatenate(pieces).astype(np.int64)
    labels = np.append(token_ids[1:], PLACEHOLDER_ID)
    return Sample(
        token_ids=token_ids,
        labels=labels.clip(min=0),
        loss_mask=(labels != PLACEHOLDER_ID).astype(np.float32),
        position_ids=recipe.position_ids(len(token_ids), spans),
        where="drawn",
        items={"image": tuple(items)} if items else {},
        spans=tuple(spans),
    )


def item(size: Shape, random: np.random.Generator, patch: int) -> ProcessedItem:
    return ProcessedItem({"pixel_values": random.standard_normal((math.prod(size), 3 * 2 * patch * patch), np.float32)}, size)


def for_reference(samples: Sequence[Sample], *, image_token: int = IMAGE_TOKEN) -> dict[str, Tensor]:
    """What its processor makes of them, padded to the longest, and the positions, which it would else find out in every step."""
    batch = collate(samples)
    is_token = torch.ones_like(batch.token_ids_bs) if batch.padding_mask_bs is None else (~batch.padding_mask_bs).long()
    is_image = batch.token_ids_bs == PLACEHOLDER_ID
    return {
        "input_ids": batch.token_ids_bs.masked_fill(is_image, image_token),
        "attention_mask": is_token,
        "position_ids": batch.position_ids,
        "labels": batch.token_ids_bs.masked_fill(is_image | (is_token == 0), -100),
        "pixel_values": batch.items["image"].inputs["pixel_values"],
        "image_grid_thw": torch.tensor(batch.items["image"].sizes),
    }


def compare(case: Case, registry: Registry, *, runs: int, profiled: bool) -> None:
    torch.manual_seed(0)
    model, plan = reference(), composition(len(case.samples), registry)
    ours = OmniModelProvider(composition=plan, registry=registry)()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        import_model(Path(folder), ours.components(), plan, registry)
    random = np.random.default_rng(0)
    samples = [draw(plan.recipe_config, text, images, random) for text, images in case.samples]
    trainer, batch = build_trainer(plan, [ours]), case.collate(samples)
    step, reference_step = (lambda: trainer.step([batch])), step_of_reference(model, for_reference(samples))
    losses = step().loss, reference_step()
    assert losses[0] is not None and abs(losses[0] - losses[1]) < 1e-4, f"not the same model: losses {losses}"
    pairs = time_in_turn(step, reference_step, runs=runs, clock=time.process_time)
    print(f"{case.name:34} {pairs}   first loss {losses[0]:.5f} : {losses[1]:.5f}", end="")
    print(f"   theirs takes {1 / pairs.ratio_of_medians:.2f} times as long", flush=True)
    if profiled:
        profile("ours", step)
        profile("transformers", reference_step)


def main(*, runs: int = 15, threads: int = 1, profiled: bool = False) -> None:
    print("One training step of a Qwen3-VL, ours : transformers (SDPA), processor time of 1 thread, float32")
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    registry = Registry.discover()
    with single_process():
        for case in CASES:
            compare(case, registry, runs=runs, profiled=profiled)


if __name__ == "__main__":
    main(profiled="--profile" in sys.argv)
