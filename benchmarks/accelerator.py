"""On one GPU in bfloat16: training steps of Qwen3-VL 2B, and forward and backward of parts as wide as published, against `transformers`.

`python -m benchmarks.accelerator`, with `--profile` to see where the time of ours goes, `--only WORD` for those with a word in their names;
where there is no GPU it says so. Ours is in bfloat16 with float32 main weights and gradients, as `train.precision: bf16` has it; theirs has
float32 weights under `torch.autocast`, SDPA and torch's fused AdamW. Both clip, neither recomputes. Weights and samples are the same, and
losses and gradient norms are compared before anything is timed. Two models of this size do not fit beside each other, so that their steps
are timed one after another; the parts' are timed in turn.

Where ours is slower: torch takes cuDNN's attention for theirs, which ours leaves out (`layers.attention`); experts' weights, each a
parameter of its own, are put together for every product, and Megatron sorts tokens by expert through masks.

The share of the GPU's arithmetic that a step uses (MFU) counts what the model asks for and no padding: of every matrix, 6 operations for
each of its numbers and each token or patch that it meets (2 forward, 4 backward; of the tied embedding as output layer); of attention,
12 * layers * width * length^2 for patches, which all see each other, and half of that for tokens, which see those before them. It is that
over the time of a step and 989 TFLOP/s, the dense bfloat16 rate of H100 and H200 by their datasheet.
"""

from __future__ import annotations

import argparse
import gc
import math
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers.utils import logging

from benchmarks import language_models
from benchmarks.case import Case
from benchmarks.components import step as forward_and_backward
from benchmarks.encoders import case as encoder_case
from benchmarks.encoders import with_merger
from benchmarks.paired import profile, time_in_turn
from benchmarks.qwen3_vl import MERGE, draw, for_reference
from benchmarks.train_step import step_of_reference
from loongforge_core.component import ComponentConfig, Shape
from loongforge_core.config.check import load_composition
from loongforge_core.config.composition import Composition
from loongforge_core.data.collate import collate, collate_packed
from loongforge_core.data.sample import Sample
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.auto import spec_of
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import save_reference
from loongforge_core.testing.sizes import published_config
from loongforge_core.train.step import build_trainer
from loongforge_core.weights.config_keys import write_config
from loongforge_core.weights.formats import component_table, whole_table
from loongforge_core.weights.import_hf import import_hf
from loongforge_core.weights.load import import_model

PEAK = 989e12
CLIP, RATE = 1.0, 1e-7
"""So small a rate that every step has the first one's loss: a comparison after many of them is one of the same weights."""
LENGTH = 2048
UNEQUAL = (1.0, 0.5, 0.25, 0.25)
"""Samples' parts of the longest, again and again."""


def synchronised(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def rounded(model: nn.Module) -> Any:
    """Its weights are numbers that bfloat16 has; buffers, such as frequencies, stay as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


def temporary() -> tempfile.TemporaryDirectory[str]:
    """In memory, where there is enough of it."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() and shutil.disk_usage(memory).free > 16 * 2**30 else None)


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---- whole steps of Qwen3-VL


@dataclass(frozen=True)
class Work:
    """What one step is made of."""

    name: str
    samples: Sequence[Sample]
    packed: bool

    @property
    def tokens(self) -> int:
        return sum(map(len, self.samples))


@dataclass(frozen=True)
class Measured:
    seconds: float
    memory: int
    """Bytes of the GPU's at the peak, weights and optimizer included."""


First = tuple[float, float]
"""Loss and gradient norm of the first step."""


def planned(samples: int, registry: Registry, overrides: Sequence[str] = ()) -> Composition:
    run = [
        f"train.global_batch_size={samples}",
        f"train.micro_batch_size={samples}",
        f"train.seq_length={LENGTH}",
        f"train.clip_grad={CLIP}",
    ]
    run += ["train.precision=bf16", "train.lr_decay_style=constant", f"train.lr={RATE}"]
    return load_composition(STEPS, [*run, *overrides], registry=registry)


def works(plan: Composition, number: int, image_token: int) -> list[Work]:
    """A quarter of every sample is an image, twice as wide as it is high."""
    random, patch = np.random.default_rng(0), plan.encoder("image").patch_size

    def sample(part: float) -> Sample:
        rows = math.isqrt(int(part * LENGTH / 4) // 2) * MERGE
        text = int(part * LENGTH) - 2 * (rows // MERGE) ** 2
        return draw(plan.recipe_config, text, [(rows, 2 * rows)], random, patch=patch, words=image_token)

    alike, unequal = [1.0] * number, [UNEQUAL[index % len(UNEQUAL)] for index in range(number)]
    return [
        Work(f"{number} alike, {LENGTH} tokens each", [sample(part) for part in alike], packed=False),
        Work(f"{number} of {LENGTH * min(unequal):.0f} to {LENGTH}, packed", [sample(part) for part in unequal], packed=True),
    ]


def reference_of(plan: Composition, registry: Registry, device: torch.device) -> Any:
    """The same each time."""
    table = whole_table(plan, registry)
    assert table is not None
    tree = write_config((*table.keys, *table.own_type()), {name: slot.config for name, slot in plan.slots.items()})
    torch.manual_seed(0)
    with device:
        model = transformers.Qwen3VLForConditionalGeneration(transformers.AutoConfig.for_model(**tree, attn_implementation="sdpa"))
    return rounded(model).train()


def compare_steps(
    registry: Registry, device: torch.device, *, samples: int, runs: int, profiled: bool, overrides: Sequence[str] = ()
) -> None:
    plan = planned(samples, registry, overrides)
    image_token = transformers.Qwen3VLConfig().image_token_id
    work = works(plan, samples, image_token)
    ours = our_steps(plan, registry, device, work, runs=runs, profiled=profiled)
    release()
    theirs = their_steps(plan, registry, device, work, [operations for *_, operations in ours], image_token, runs=runs)
    release()
    for each, (mine, my_first, _), (other, their_first) in zip(work, ours, theirs, strict=True):
        for what, left, right in zip(("loss", "gradient norm"), my_first, their_first, strict=True):
            assert abs(left - right) < 0.05 * abs(right), f"{each.name}: not the same model: {what} {left:.4f} : {right:.4f}"
        memory = mine.memory / max(1, other.memory)
        print(f"{each.name:30} {mine.seconds / other.seconds:.2f} of the time, {memory:.2f} of the memory", flush=True)


def say(who: str, work: Work, found: Measured, first: First, operations: float) -> None:
    share = operations / found.seconds / PEAK
    speed = (
        f"{1e3 * found.seconds:8.1f} ms   {work.tokens / found.seconds:9,.0f} tokens/s   MFU {share:.1%} of {operations / 1e12:.1f} TFLOP"
    )
    print(f"{who:12} {work.name:30} {speed}   {found.memory / 2**30:5.1f} GiB   loss {first[0]:.4f}, norm {first[1]:.4f}", flush=True)


def our_steps(
    plan: Composition, registry: Registry, device: torch.device, work: Sequence[Work], *, runs: int, profiled: bool
) -> list[tuple[Measured, First, float]]:
    with temporary() as folder:
        reference_of(plan, registry, device).save_pretrained(folder)
        release()
        fill = partial(import_model, folder, composition=plan, registry=registry)
        model = OmniModelProvider(composition=plan, registry=registry, device=device, fill=fill)()
    trainer, found = build_trainer(plan, [model]), []
    for each in work:
        batch = (collate_packed if each.packed else collate)(each.samples).to(device)
        start = trainer.step([batch])
        assert start.loss is not None and start.grad_norm is not None
        step = partial(trainer.step, [batch])
        found.append((measured(step, device, runs), (start.loss, start.grad_norm), operations_of(model, plan, each.samples)))
        say("ours", each, *found[-1])
        if profiled:
            profile(f"ours, {each.name}", step)
    return found


def their_steps(
    plan: Composition,
    registry: Registry,
    device: torch.device,
    work: Sequence[Work],
    operations: Sequence[float],
    image_token: int,
    *,
    runs: int,
) -> list[tuple[Measured, First]]:
    model, norms, found = reference_of(plan, registry, device).float(), [], []
    for each, asked in zip(work, operations, strict=True):
        batch = {name: tensor.to(device) for name, tensor in for_reference(each.samples, image_token=image_token).items()}
        step = step_of_reference(
            model,
            batch,
            lr=RATE,
            fused=True,
            forward_in=lambda: torch.autocast(device.type, torch.bfloat16),
            clip=lambda: norms.append(nn.utils.clip_grad_norm_(model.parameters(), CLIP)),
        )
        norms.clear()
        loss = step()
        norm = float(norms[0])
        found.append((measured(step, device, runs), (loss, norm)))
        say("transformers", each, *found[-1], asked)
        del step, batch
        release()
    return found


def measured(step: Callable[[], object], device: torch.device, runs: int, warm_up: int = 2) -> Measured:
    for _ in range(warm_up):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(runs):
        start = synchronised(device)
        step()
        seconds.append(synchronised(device) - start)
    return Measured(statistics.median(seconds), torch.cuda.max_memory_allocated() if device.type == "cuda" else 0)


def operations_of(model: Any, plan: Composition, samples: Sequence[Sample]) -> float:
    """As the module says at its beginning."""
    sizes = [item.size for sample in samples for item in sample.items.get("image", ())]
    tokens, patches = sum(map(len, samples)), sum(map(math.prod, sizes))
    encoder, decoder = plan.encoder("image"), plan.foundation
    assert decoder is not None
    met = {"foundation": tokens, "image_encoder": patches, "image_projector": patches / MERGE**2}
    products = sum(6 * count * numbers(model.components()[slot]) for slot, count in met.items())
    of_tokens = 6 * decoder.num_layers * decoder.num_attention_heads * decoder.head_size * sum(len(sample) ** 2 for sample in samples)
    of_patches = 12 * encoder.num_layers * encoder.hidden_size * sum(frames * (rows * columns) ** 2 for frames, rows, columns in sizes)
    return products + of_tokens + of_patches


def numbers(component: nn.Module) -> int:
    """Of its matrices; a table of positions is none."""
    named = component.named_parameters()
    return sum(parameter.numel() for name, parameter in named if parameter.dim() > 1 and "position_embedding" not in name)


# ---- parts, as wide as published


LAYERS = 4
"""Of language models, and a vocabulary of 2,048: what is timed is layers."""
TOWER: Sequence[Shape] = ((1, 64, 64), (1, 48, 64), (1, 32, 96), (1, 64, 48))


STEPS = "qwen3_vl/qwen3_vl_2b"
DECODERS = {
    "qwen3/qwen3_8b": transformers.Qwen3ForCausalLM,
    "deepseek2/deepseek_v2_lite": transformers.DeepseekV2ForCausalLM,
    "qwen3/qwen3_30b_a3b": transformers.Qwen3MoeForCausalLM,
}
PARTS = (*DECODERS, "image_encoder/intern_vit_0.3b", "image_encoder/qwen3_vl_vit_2b")


def part(name: str, registry: Registry, device: torch.device, small: Mapping[str, Any]) -> Case:
    """`small` replaces fields of language models, to try all of this without a GPU."""
    config = published_config(name, registry, {})
    if name in DECODERS:
        config = few_layers(config, small)
        reference = on_device(DECODERS[name], config, registry, device)
        return language_models.case(f"{name}, {LAYERS} layers", config, reference, length=64 if small else LENGTH, device=device)
    if name.endswith("0.3b"):
        return of_tiles(name, config, registry, device, tiles=1 if small else 16)
    width = 2048
    reference = on_device(transformers.Qwen3VLVisionModel, config, registry, device, out_hidden_size=width)
    like, sizes = torch.empty(0, device=device, dtype=torch.bfloat16), ((1, 4, 6), (1, 8, 4)) if small else TOWER
    return with_merger(f"{name}, {len(sizes)} images", config, reference, normalization="LayerNorm", width=width, sizes=sizes, like=like)


def of_tiles(name: str, config: ComponentConfig, registry: Registry, device: torch.device, *, tiles: int) -> Case:
    pixels = torch.randn(tiles, 3, 448, 448, device=device, dtype=torch.bfloat16)

    def behind_class(model: Any) -> torch.Tensor:
        hidden: torch.Tensor = model(pixels).last_hidden_state
        return hidden[:, 1:].flatten(0, 1)

    reference = on_device(transformers.InternVLVisionModel, config, registry, device)
    return encoder_case(f"{name}, {tiles} tiles", config, reference, Items({"pixel_values": pixels}, ((1,),) * tiles), behind_class)


def few_layers(config: ComponentConfig, small: Mapping[str, Any]) -> ComponentConfig:
    fields = {**config.model_dump(exclude_unset=True), "num_layers": LAYERS, "vocab_size": language_models.VOCABULARY, **small}
    if isinstance(fields.get("moe_layer_freq"), list):
        fields["moe_layer_freq"] = fields["moe_layer_freq"][:LAYERS]
    if "num_moe_experts" in fields:
        fields["moe_router_load_balancing_type"] = "none"  # the reference's loss is not asked for
    return type(config)(**fields)


def on_device(model_class: Any, config: ComponentConfig, registry: Registry, device: torch.device, **more: Any) -> Any:
    table = component_table(spec_of(config, registry), config, registry)
    assert table is not None
    tree = {**write_config(table.keys, config), **more}
    tree.pop("model_type", None)
    torch.manual_seed(0)
    with device:
        return rounded(model_class(model_class.config_class(**tree, attn_implementation="sdpa")))


def compare_part(case: Case, device: torch.device, *, runs: int, profiled: bool) -> None:
    reference = case.reference.train()
    with case.build(device=device, dtype=torch.bfloat16) as built, temporary() as folder:
        save_reference(reference, Path(folder) / "reference", built.table, built.config)
        import_hf(Path(folder) / "reference", built.target, built.table, built.config)
        theirs, ours = case.run_reference(reference).detach().float(), case.run_ours(built.model).detach().float()
        difference = float((ours - theirs).norm() / theirs.norm())
        assert difference < 0.1, f"{case.name}: not the same model: outputs differ by {difference:.2g}"
        del theirs, ours
        work = forward_and_backward(built.model, case.run_ours)
        clock = partial(synchronised, device)
        pairs = time_in_turn(work, forward_and_backward(reference, case.run_reference), runs=runs, clock=clock)
        print(f"{case.name:44} {pairs}   outputs differ by {difference:.1e}", flush=True)
        if profiled:
            profile(f"ours, {case.name}", work)


# ---- all of it


def main(*, runs: int = 10, samples: int = 0, only: str = "", profiled: bool = False) -> int:
    """The exit status: one that fails stops none of the others."""
    if not torch.cuda.is_available():
        print("There is no accelerator here: nothing was timed.")
        return 0
    logging.disable_progress_bar()
    device, card = torch.device("cuda", 0), torch.cuda.get_device_properties(0)
    samples = samples or (4 if card.total_memory > 120 * 2**30 else 2)
    print(f"{card.name}, {card.total_memory / 2**30:.0f} GiB, torch {torch.__version__}, bfloat16")
    print(f"ours : transformers {transformers.__version__}; below 1 means that ours is faster", flush=True)
    registry, failed = Registry.discover(), 0
    for name in (STEPS, *PARTS):
        try:
            if only in name and name == STEPS:
                with single_process():
                    compare_steps(registry, device, samples=samples, runs=runs, profiled=profiled)
            elif only in name:
                compare_part(part(name, registry, device, {}), device, runs=runs, profiled=profiled)
        except Exception:
            traceback.print_exc()
            failed = 1
        release()
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=0, help="of a step of Qwen3-VL; default: what fits into the memory")
    parser.add_argument("--only", default="", metavar="WORD", help=f"in the name, of {STEPS}, {', '.join(PARTS)}")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    sys.exit(main(runs=arguments.runs, samples=arguments.samples, only=arguments.only, profiled=arguments.profile))
