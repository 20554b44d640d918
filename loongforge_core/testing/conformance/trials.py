"""A component built and run in this process, whatever its kind: inputs by name go in, tensors come out.

Shapes: N tokens of all items, W width, s sequence, b batch, h language model width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from torch import Tensor

from loongforge_core.component import ProcessedItem
from loongforge_core.layers.interfaces import BuildContext, Component, Features, Items, Projector
from loongforge_core.model.auto import AutoModel
from loongforge_core.parallel.groups import component_groups
from loongforge_core.parallel.initialise import initialise
from loongforge_core.parallel.launch import single_process
from loongforge_core.testing.conformance.subject import NotApplicable, Subject
from loongforge_core.testing.reference import redraw

__all__ = ["Trial", "build", "built", "difference", "draw", "features_of", "in_one_process", "parameters_of", "trials"]

SMALL = 3_000_000
"""Parameters of a component that is tried at its default size."""

LENGTHS = (11, 7, 4)
"""Tokens of the samples that a language model is tried with."""


# ---- building


@contextmanager
def in_one_process() -> Iterator[None]:
    """This process alone; nothing of what it did before counts, nor is anything left behind: Megatron keeps the scale of routers' losses in
    a class."""
    before = MoEAuxLossAutoScaler.main_loss_backward_scale
    MoEAuxLossAutoScaler.main_loss_backward_scale = None
    try:
        with single_process():
            yield
    finally:
        MoEAuxLossAutoScaler.main_loss_backward_scale = before


@contextmanager
def built(subject: Subject, **context: Any) -> Iterator[Component[Any]]:
    """The component with every parameter drawn, while this process is a group of one. `context` goes into the build context."""
    with in_one_process():
        component = build(subject, **context)
        draw(subject, component)
        yield component


def build(subject: Subject, **context: Any) -> Component[Any]:
    """Unfilled, in the group of one that there is."""
    if not subject.config_class.tiny:
        meta = BuildContext(groups=component_groups(), device=torch.device("meta"))
        size = sum(each.numel() for each in AutoModel.from_config(subject.config, meta, subject.registry, spec=subject.spec).parameters())
        if size > SMALL:
            raise NotApplicable(f"it has {size:,} parameters by default, and its config class declares no `tiny` size: see `specification`")
    return AutoModel.from_config(subject.config, BuildContext(groups=component_groups(), **context), subject.registry, spec=subject.spec)


def draw(subject: Subject, component: Component[Any], seed: int = 1) -> None:
    """Buffers as they begin; parameters from normal distributions, since zeros and ones hide what they multiply."""
    initialise({subject.slot: component}, seed=seed)
    kept = {name: buffer.clone() for name, buffer in component.named_buffers()}
    redraw(component, seed)
    with torch.no_grad():
        for name, buffer in component.named_buffers():
            buffer.copy_(kept[name])


# ---- running


def features_of(component: Component[Any], items: Sequence[ProcessedItem]) -> Features:
    """What an encoder makes of items, or a projector of features."""
    tensors = concatenated(items)
    sizes = tuple(item.size for item in items)
    return run_in_front(component, sizes, tensors)


def concatenated(items: Sequence[ProcessedItem]) -> dict[str, Tensor]:
    """Copies, on which nothing that a component does falls back."""
    return {name: torch.from_numpy(np.concatenate([item.inputs[name] for item in items])) for name in items[0].inputs}


def run_in_front(component: Component[Any], sizes: tuple[Any, ...], tensors: Mapping[str, Tensor]) -> Features:
    given: Items | Features = Items(tensors, sizes)
    if isinstance(component, Projector):  # its encoder's dtype is its own
        hidden_NW, *levels = (tensor.to(component.context.dtype) for tensor in tensors.values())
        given = Features(hidden_NW, sizes, tuple(levels))
    features: Features = component(given)
    return features


@dataclass(frozen=True)
class Trial:
    """One input of a component."""

    name: str
    """The modality; empty where there is one way to run it."""
    tensors: Mapping[str, Tensor]
    call: Callable[[Component[Any], Mapping[str, Tensor]], tuple[Tensor, ...]]

    def run(self, component: Component[Any]) -> tuple[Tensor, ...]:
        """Features and levels, or logits; of copies of the inputs."""
        return self.call(component, {name: tensor.clone() for name, tensor in self.tensors.items()})


def trials(subject: Subject) -> list[Trial]:
    if subject.spec.kind == "backbone":
        return [Trial("", sequences(subject), run_backbone)]
    found = []
    for modality in subject.modalities:
        items = subject.items(modality)
        sizes = tuple(item.size for item in items)
        found.append(Trial(modality, concatenated(items), partial(run_whole, sizes)))
    return found


def run_whole(sizes: tuple[Any, ...], component: Component[Any], tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    features = run_in_front(component, sizes, tensors)
    return features.hidden_NW, *features.levels


def sequences(subject: Subject, lengths: Sequence[int] = LENGTHS) -> dict[str, Tensor]:
    """Padded samples of a language model, and levels for each of their tokens."""
    config, random = subject.config, torch.Generator().manual_seed(3)
    longest, number = max(lengths), len(lengths)
    positions_bs = torch.arange(longest).repeat(number, 1)
    levels = subject.levels_taken(subject.composition)
    return {
        "token_ids": torch.randint(config.vocab_size, (number, longest), generator=random),
        "position_ids": positions_bs.repeat(3, 1, 1) if config.position_axes == 3 else positions_bs,
        "padding_mask": torch.arange(longest) >= torch.tensor(lengths)[:, None],
        **{f"level {index}": torch.randn(longest, number, config.hidden_size, generator=random) / 2 for index in range(levels)},
    }


def run_backbone(component: Any, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Logits of the tokens that are no padding, `[n, v]`. `hidden` among the inputs stands for what `embed` gives."""
    embedded_sbh = tensors["hidden"] if "hidden" in tensors else component.embed(tensors["token_ids"])
    logits_bsv: Tensor = component(
        embedded_sbh,
        tensors["position_ids"],
        token_ids_bs=tensors["token_ids"],
        padding_mask_bs=tensors["padding_mask"],
        levels=[tensor.to(component.context.dtype) for name, tensor in tensors.items() if name.startswith("level ")],
    )
    return (logits_bsv[~tensors["padding_mask"]],)


# ---- comparing


def difference(given: Tensor, expected: Tensor) -> float:
    """The largest one, in units of the largest expected value and at least 1e-3; infinite where a value or the shape is no comparison."""
    if given.shape != expected.shape:
        return float("inf")
    if not given.numel():
        return 0.0
    worst = float((given.detach().double() - expected.detach().double()).abs().max())
    return worst / max(float(expected.detach().double().abs().max()), 1e-3) if worst == worst else float("inf")


def parameters_of(component: Component[Any]) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in component.named_parameters() if parameter.requires_grad}
