"""One training step of a LLaVA (forward, backward, AdamW) against the same model in `transformers` with its SDPA attention.

Same weights, batch, threads; neither clips gradients. Ours is the step that `loongforge train` takes, metrics included. `--profile` shows
where the time goes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel, Qwen2Config, SiglipVisionConfig

from benchmarks.paired import profile, time_in_turn
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.train.step import build_trainer
from loongforge_core.weights.load import import_model

IMAGE_TOKEN = 500
VOCABULARY = 512


@dataclass(frozen=True)
class Size:
    name: str
    layers: int
    width: int
    heads: int
    image: int
    batch: int
    text: int

    @property
    def image_tokens(self) -> int:
        return (self.image // 4) ** 2


SIZES = (
    Size("digits (2 + 2 layers, 64 wide)", layers=2, width=64, heads=4, image=8, batch=128, text=12),
    Size("small (4 + 4 layers, 256 wide)", layers=4, width=256, heads=4, image=32, batch=16, text=64),
    Size("wider (4 + 4 layers, 512 wide)", layers=4, width=512, heads=8, image=32, batch=8, text=64),
)


def reference(size: Size) -> LlavaForConditionalGeneration:
    shape = {
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
    }
    text = Qwen2Config(**shape, num_key_value_heads=2, vocab_size=VOCABULARY, tie_word_embeddings=False, use_cache=False)
    vision = SiglipVisionConfig(**shape, image_size=size.image, patch_size=4, vision_use_head=False)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=size.image_tokens,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "sdpa"
    return LlavaForConditionalGeneration(config).train()


def composition(size: Size, registry: Registry) -> Composition:
    shape = {"num_layers": size.layers, "hidden_size": size.width, "ffn_hidden_size": 4 * size.width, "num_attention_heads": size.heads}
    tower = {"type": "siglip", "image_size": size.image, "patch_size": 4, "attention_pooling_head": False}
    return composition_from(
        {
            "model": {
                "model_type": "llava",
                "image_encoder": {**tower, **shape},
                "image_projector": {"type": "mlp"},
                "foundation": {"type": "qwen2", "num_query_groups": 2, "vocab_size": VOCABULARY, "rotary_base": 1e4, **shape},
            },
            "train": {
                "global_batch_size": size.batch,
                "micro_batch_size": size.batch,
                "seq_length": size.image_tokens + size.text,
                "clip_grad": 0.0,
                "lr_decay_style": "constant",
            },
        },
        registry,
    )


@dataclass(frozen=True)
class Question:
    """One image in front of every sample's text, every text token a target."""

    token_ids: Tensor
    pixels: Tensor
    image_tokens: int

    @staticmethod
    def draw(size: Size) -> Question:
        text = torch.randint(0, IMAGE_TOKEN, (size.batch, size.text))
        image = torch.full((size.batch, size.image_tokens), IMAGE_TOKEN)
        return Question(torch.cat((image, text), 1), torch.randn(size.batch, 3, size.image, size.image), size.image_tokens)

    def ours(self) -> Batch:
        samples, length = self.token_ids.shape
        where = torch.nonzero(self.token_ids == IMAGE_TOKEN)
        labels = self.token_ids.roll(-1, 1)
        mask = (labels != IMAGE_TOKEN).float()
        mask[:, -1] = 0
        return Batch(
            token_ids_bs=self.token_ids.masked_fill(self.token_ids == IMAGE_TOKEN, PLACEHOLDER_ID),
            labels_bs=labels,
            loss_mask_bs=mask,
            position_ids=torch.arange(length).expand(samples, length),
            items={"image": Items({"pixel_values": self.pixels}, (tuple(self.pixels.shape[2:]),) * samples)},
            placements={"image": Placement(where[:, 0], where[:, 1])},
        )

    def theirs(self) -> dict[str, Tensor]:
        labels = self.token_ids.masked_fill(self.token_ids == IMAGE_TOKEN, -100)
        return {
            "input_ids": self.token_ids,
            "attention_mask": torch.ones_like(self.token_ids),
            "pixel_values": self.pixels,
            "labels": labels,
        }


def step_of_reference(
    model: PreTrainedModel,
    batch: Mapping[str, Tensor],
    *,
    lr: float = 1e-4,
    fused: bool | None = None,
    forward_in: Callable[[], AbstractContextManager[object]] = nullcontext,
    clip: Callable[[], object] = lambda: None,
) -> Callable[[], float]:
    """What takes a step on `batch`, the model's arguments, and returns the loss. `clip` is called before the optimizer's step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01, fused=fused)

    def step() -> float:
        optimizer.zero_grad()
        with forward_in():
            loss = model(**batch).loss
        loss.backward()
        clip()
        optimizer.step()
        return float(loss.detach())

    return step


def compare(size: Size, registry: Registry, *, runs: int, profiled: bool) -> None:
    torch.manual_seed(0)
    model, question = reference(size), Question.draw(size)
    plan = composition(size, registry)
    ours = OmniModelProvider(composition=plan, registry=registry)()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        import_model(Path(folder), ours.components(), plan, registry)
    trainer, batch = build_trainer(plan, [ours]), question.ours()
    reference_step = step_of_reference(model, question.theirs())
    losses = trainer.step([batch]).loss, reference_step()
    assert abs(losses[0] - losses[1]) < 1e-4, f"not the same model: losses {losses}"  # type: ignore[operator]
    pairs = time_in_turn(lambda: trainer.step([batch]), reference_step, runs=runs)
    print(f"{size.name:34} {pairs}   first loss {losses[0]:.5f} : {losses[1]:.5f}", flush=True)
    if profiled:
        profile("ours", lambda: trainer.step([batch]))
        profile("transformers", reference_step)


def main(*, runs: int = 25, threads: int = 1, profiled: bool = False) -> None:
    print(f"One training step, ours : transformers (SDPA), {threads} thread, float32; a ratio below 1 means that ours is faster")
    torch.set_num_threads(threads)
    registry = Registry.discover()
    with single_process():
        for size in SIZES:
            compare(size, registry, runs=runs, profiled=profiled)


if __name__ == "__main__":
    main(profiled="--profile" in sys.argv)
