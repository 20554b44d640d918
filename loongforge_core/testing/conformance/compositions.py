"""In a small composition: samples train the same however they are put together, and without items too.

Shapes: b samples, s tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from loongforge_core.config.slot_names import FOUNDATION
from loongforge_core.data.collate import collate, collate_packed
from loongforge_core.model.batch import Batch
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.testing.conformance.samples import samples
from loongforge_core.testing.conformance.subject import NotApplicable, Subject
from loongforge_core.testing.conformance.trials import in_one_process
from loongforge_core.testing.reference import redraw

__all__ = ["absent_modality", "batch_invariance", "packing_invariance"]

LOSS = 1e-5
"""Relative (I1)."""
GRADIENT = 1e-4
"""Of a tensor's largest value: sums of float32 in another order. Tensors whose gradient is next to nothing are measured by the others'."""
NEXT_TO_NOTHING = 1e-3


@dataclass(frozen=True)
class Learned:
    """What a global batch teaches."""

    loss: float
    gradients: Mapping[str, Tensor | None]


@contextmanager
def model_of(subject: Subject) -> Iterator[OmniCombinationModel]:
    """The composition in this process, with parameters that hide nothing, in training."""
    with in_one_process():
        model = OmniModelProvider(composition=subject.composition, registry=subject.neighbourhood)()
        for component in model.components().values():
            kept = {name: buffer.clone() for name, buffer in component.named_buffers()}
            redraw(component)
            with torch.no_grad():
                for name, buffer in component.named_buffers():
                    buffer.copy_(kept[name])
        yield model.train()


def learned(model: OmniCombinationModel, batches: Sequence[Batch]) -> Learned:
    model.zero_grad()
    pairs = [model.recipe.loss(model(batch), batch.loss_mask_bs) for batch in batches]
    loss: Tensor = torch.stack([each for each, _ in pairs]).sum() / torch.stack([number for _, number in pairs]).sum()
    torch.autograd.backward(loss)
    named = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return Learned(float(loss.detach()), {name: None if each.grad is None else each.grad.clone() for name, each in named})


def unlike(given: Learned, expected: Learned, what: str) -> Iterator[str]:
    if not abs(given.loss - expected.loss) <= LOSS * abs(expected.loss):
        yield f"{what}, the loss is {given.loss:.7g} instead of {expected.loss:.7g}"
    largest = max(float(each.abs().max()) for each in expected.gradients.values() if each is not None and each.numel())
    wrong = {}
    for name, theirs in expected.gradients.items():
        ours = given.gradients[name]
        if ours is None or theirs is None:
            if ours is not theirs:
                wrong[name] = float("inf")
            continue
        unit = max(float(theirs.abs().max()), NEXT_TO_NOTHING * largest)
        worst = float((ours - theirs).abs().max()) / unit
        if not worst <= GRADIENT:
            wrong[name] = worst
    if wrong:
        first = sorted(wrong, key=lambda name: -wrong[name])[:3]
        said = ", ".join(f"{name} by {wrong[name]:.2g}" for name in first)
        yield f"{what}, {len(wrong)} of {len(expected.gradients)} gradients differ: {said} of their largest value"


def require_invariance(subject: Subject) -> None:
    """Raises NotApplicable where a config says that numbers depend on how samples are put together."""
    if why := subject.config.depends_on_layout:
        raise NotApplicable(f"its config says that numbers depend on the layout and the micro-batch: {why}")


def batch_invariance(subject: Subject) -> Iterator[str]:
    require_invariance(subject)
    made = samples(subject)
    with model_of(subject) as model:
        expected = learned(model, [collate([each]) for each in made])
        yield from unlike(learned(model, [collate(made)]), expected, f"{len(made)} samples in one micro-batch instead of one by one")
        turned = [collate(made[2:]), collate(made[1::-1])]
        yield from unlike(learned(model, turned), expected, "the same samples two by two, in another order")


def packing_invariance(subject: Subject) -> Iterator[str]:
    require_invariance(subject)
    made = samples(subject)
    with model_of(subject) as model:
        expected = learned(model, [collate([each]) for each in made])
        packed = learned(model, [collate_packed(made)])
        yield from unlike(packed, expected, f"{len(made)} samples packed into one row instead of one by one")


def absent_modality(subject: Subject) -> Iterator[str]:
    require_invariance(subject)
    made, bare = samples(subject), samples(subject, without_items=True)
    with model_of(subject) as model:
        before = learned(model, [collate(made)])
        without = learned(model, [collate(bare)])
        yield from not_zero(without)
        after = learned(model, [collate(made)])
        yield from unlike(after, before, "after a batch without any item")
        together = learned(model, [collate(made), collate(bare)])
        targets = [float(collate(each).loss_mask_bs.sum()) for each in (made, bare)]
        share = targets[0] / sum(targets)
        in_front = {
            name: None if each is None else each * share for name, each in before.gradients.items() if not name.startswith(FOUNDATION)
        }
        given = Learned(0.0, {name: together.gradients[name] for name in in_front})
        yield from unlike(given, Learned(0.0, in_front), "beside a micro-batch without any item")


def not_zero(without: Learned) -> Iterator[str]:
    for name, gradient in without.gradients.items():
        if name.startswith(FOUNDATION):
            continue
        if gradient is None:
            yield f"in a batch without any item, the gradient of {name} is missing instead of zero"
        elif gradient.any():
            yield f"in a batch without any item, the gradient of {name} is not zero"
