"""Published weights mean the same here: a component computes what its reference computes with them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from loongforge_core.layers.interfaces import Component
from loongforge_core.testing.conformance.subject import NotApplicable, Subject, fresh
from loongforge_core.testing.conformance.trials import Trial, build, difference, draw, in_one_process, run_backbone, trials
from loongforge_core.testing.parity import TOLERANCE
from loongforge_core.testing.reference import redraw, save_reference
from loongforge_core.weights.config_keys import write_config
from loongforge_core.weights.formats import slot_table
from loongforge_core.weights.import_hf import import_hf
from loongforge_core.weights.table import Table

__all__ = ["hf_parity", "names_nothing", "reference_of"]


def hf_parity(subject: Subject) -> Iterator[str]:
    if not subject.spec.reference:
        raise NotApplicable("its specification names no `reference`")
    if (missing := names_nothing(subject.spec.reference)) is not None:
        yield missing
        return
    folder = fresh(subject, "parity")
    with in_one_process():
        component = build(subject)
        table = slot_table(subject.spec, component, subject.registry)
        reference = reference_of(subject, table)
        if reference is None:
            raise NotApplicable(f"its reference, {subject.spec.reference}, cannot be built from its table: test it with {KIT}")
        draw(subject, component)
        redraw(reference)
        save_reference(reference, folder, table, component.config)
        import_hf(folder, component, table, component.config)
        component.eval()
        reference.eval()
        for trial in trials(subject):
            yield from unlike_reference(subject, trial, component, reference)


KIT = "loongforge_core.testing.parity, which lets you say how it is run"


def reference_of(subject: Subject, table: Table) -> Any:
    """The class that the specification names: of transformers, from the config.json that the table writes; any other, from our config.

    None where it is not to be had that way.
    """
    reference_class = named_class(subject.spec.reference)
    if reference_class is None:
        return None
    try:
        config_class = getattr(reference_class, "config_class", None)
        if config_class is None:
            return reference_class(subject.config)
        tree = write_config(table.keys, subject.config)
        return reference_class(config_class(**tree))
    except Exception:
        return None


def names_nothing(path: str) -> str | None:
    """Where a reference is written as a class of an installed package, and the package has no such class."""
    package = path.partition(".")[0]
    if "." not in path or not path.replace(".", "").isidentifier() or importlib.util.find_spec(package) is None:
        return None
    return None if named_class(path) is not None else f"its reference is {path}, which {package} does not have"


def named_class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    if not module or not path.replace(".", "").isidentifier():
        return None
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def unlike_reference(subject: Subject, trial: Trial, component: Component[Any], reference: Any) -> Iterator[str]:
    """One of the reference's outputs, the hidden states of a layer say, is what comes out here."""
    with torch.no_grad():
        ours = trial.run(component)[0]
        if subject.spec.kind == "backbone":
            theirs = [backbone_logits(reference, trial)]
            ours = run_backbone(component, {name: tensor for name, tensor in trial.tensors.items() if not name.startswith("level ")})[0]
        else:
            theirs = tried(reference, trial)
    near = [each for each in theirs if each.numel() == ours.numel()]
    if not near:
        shapes = [list(each.shape) for each in theirs]
        raise NotApplicable(f"the judge cannot run {subject.spec.reference} on these inputs ({shapes} came out): test it with {KIT}")
    worst = min(difference(ours.flatten(), each.flatten()) for each in near)
    if worst > TOLERANCE:
        yield f"with the same weights as {subject.spec.reference}, outputs differ by {worst:.2g} of their size, allowed {TOLERANCE}"


def backbone_logits(reference: Any, trial: Trial) -> Tensor:
    real_bs = ~trial.tensors["padding_mask"]
    logits: Tensor = reference(input_ids=trial.tensors["token_ids"], attention_mask=real_bs.long()).logits
    return logits[real_bs]


def tried(reference: Any, trial: Trial) -> list[Tensor]:
    """All tensors that the reference gives, whichever way it takes the inputs."""
    ways: list[Callable[[], Any]] = [
        lambda: reference(**trial.tensors, output_hidden_states=True),
        lambda: reference(**trial.tensors),
        lambda: reference(*trial.tensors.values()),
        lambda: reference(next(iter(trial.tensors.values()))),
    ]
    for way in ways:
        try:
            return list(tensors_in(way()))
        except Exception:
            continue
    return []


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Hidden states without a first token of their own too, as encoders drop it."""
    if isinstance(value, Tensor):
        yield value
        if value.ndim == 3:
            yield value[:, 1:]
        return
    for each in value.values() if hasattr(value, "values") else value if isinstance(value, tuple | list) else ():
        yield from tensors_in(each)
