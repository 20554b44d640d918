"""What `OmniCombinationModel` adds to a training step, against the same components called by hand: at most 1.03 of it.

Both sides are the same model, seed, batch and trainer (Megatron's schedule, DDP, AdamW); only `forward` differs. Time is this process's
own, on one thread. Noise hides what is less than a hundredth, so operations of torch are counted too.

- text only: the encoder is there, frozen, and has nothing to do; by hand it is the language model alone, with as many tokens
- merged: features are known, and get a gradient; by hand it is the language model alone again, so merging counts as added
- images: encoder, projector, placeholders and language model
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.paired import time_in_turn
from benchmarks.train_step import SIZES, Question, Size, composition
from loongforge_core.layers.interfaces import Features
from loongforge_core.model.batch import Batch
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.train.step import Trainer, build_trainer


class Merged(OmniCombinationModel):
    """Items are encoded already."""

    features: Mapping[str, Features]

    def forward(self, batch: Batch, **_: Any) -> Tensor:
        return super().forward(batch, encoded=self.features)


class BackboneAlone(OmniCombinationModel):
    """The tokens, looked up, and the language model."""

    def forward(self, batch: Batch, **_: Any) -> Tensor:
        hidden_sbh = self.foundation.embed(batch.token_ids_bs)
        return self.foundation(hidden_sbh, batch.position_ids, token_ids_bs=batch.token_ids_bs, labels_bs=batch.labels_bs)


class ByHand(OmniCombinationModel):
    """Encoder, projector and language model, called one after another."""

    def forward(self, batch: Batch, **_: Any) -> Tensor:
        parts, placement = self.components(), batch.placements["image"]
        features = parts["image_projector"](parts["image_encoder"](batch.items["image"]))
        embedded_sbh = self.foundation.embed(batch.token_ids_bs.clamp(min=0))
        hidden_sbh = embedded_sbh.index_put((placement.position_N, placement.sample_N), features.hidden_NW)
        return self.foundation(hidden_sbh, batch.position_ids, token_ids_bs=batch.token_ids_bs, labels_bs=batch.labels_bs)


def trainer_of(kind: type[OmniCombinationModel], size: Size, registry: Registry, *, frozen: bool) -> Trainer:
    plan = composition(size, registry)
    if frozen:
        slots = {
            name: replace(slot, settings=slot.settings.model_copy(update={"freeze": True})) if name != "foundation" else slot
            for name, slot in plan.slots.items()
        }
        plan = replace(plan, slots=slots)
    model = OmniModelProvider(composition=plan, registry=registry)()
    model.__class__ = kind
    return build_trainer(plan, [model])


def text_of(batch: Batch) -> Batch:
    """As many tokens, and no item."""
    return replace(batch, token_ids_bs=batch.token_ids_bs.clamp(min=0), items={}, placements={})


class Operations(TorchDispatchMode):
    """Counts what torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))

    @staticmethod
    def of(work: Callable[[], object]) -> Counter[str]:
        with Operations() as mode:
            work()
        return mode.counts


@dataclass(frozen=True)
class Case:
    name: str
    ours: type[OmniCombinationModel]
    theirs: type[OmniCombinationModel]
    frozen: bool = False
    items: bool = True


CASES = (
    Case("text only", OmniCombinationModel, BackboneAlone, frozen=True, items=False),
    Case("merged", Merged, BackboneAlone, frozen=True),
    Case("images", OmniCombinationModel, ByHand),
)


def compare(case: Case, size: Size, registry: Registry, *, runs: int) -> None:
    torch.manual_seed(0)
    batch = Question.draw(size).ours()
    ours, theirs = (trainer_of(kind, size, registry, frozen=case.frozen) for kind in (case.ours, case.theirs))
    for model in (*ours.models, *theirs.models):
        if isinstance(model, Merged):
            features_NW = torch.randn(size.batch * size.image_tokens, size.width, requires_grad=True)
            model.features = {"image": Features(features_NW, ())}
    ours_batch = batch if case.items else text_of(batch)
    theirs_batch = batch if case.theirs is ByHand else text_of(batch)
    added = Operations.of(lambda: ours.step([ours_batch])) - Operations.of(lambda: theirs.step([theirs_batch]))
    total = Operations.of(lambda: theirs.step([theirs_batch])).total()
    pairs = time_in_turn(lambda: ours.step([ours_batch]), lambda: theirs.step([theirs_batch]), runs=runs, clock=time.process_time)
    what = ", ".join(f"{count} {name.split('.')[1]}" for name, count in added.most_common(6)) or "none"
    print(f"{case.name:10} {size.name:34} {pairs}   {added.total()} operations more than {total}: {what}", flush=True)


def main(*, runs: int = 15) -> None:
    print("What our combination adds to a training step, ours : the components called by hand   goal 1.03")
    torch.set_num_threads(1)
    registry = Registry.discover()
    with single_process():
        for size in SIZES[:2]:
            for case in CASES:
                compare(case, size, registry, runs=runs)


if __name__ == "__main__":
    main()
