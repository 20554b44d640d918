"""However a component runs, in bfloat16, recomputed or twice, it computes the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from loongforge_core.layers.interfaces import Component
from loongforge_core.testing.conformance.subject import Subject
from loongforge_core.testing.conformance.trials import Trial, build, built, difference, draw, parameters_of, trials
from loongforge_core.train.step import seed_step

__all__ = ["determinism", "dtype", "recomputation"]

ROUNDING = 0.05
"""Of a row's norm: bfloat16 has eight bits, and a few layers add up what they lose."""
TOLERANCE = 1e-5
"""Recomputation does the same operations again."""


def dtype(subject: Subject) -> Iterator[str]:
    with built(subject, dtype=torch.bfloat16) as rounded:
        exact = build(subject)
        draw(subject, exact)
        for (name, ours), theirs in zip(exact.named_parameters(), rounded.parameters(), strict=True):
            if theirs.dtype != torch.bfloat16:
                yield f"{name} is {theirs.dtype} where `context.dtype` is torch.bfloat16"
            ours.data.copy_(theirs.data)
        for trial in trials(subject):
            outputs = trial.run(rounded)
            for index, (given, expected) in enumerate(zip(outputs, trial.run(exact), strict=True)):
                yield from (f"{named(subject, trial, index)} {said}" for said in unlike(given, expected))
            torch.autograd.backward(torch.stack([output.float().square().mean() for output in outputs]).sum())
        for name, parameter in parameters_of(rounded).items():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                yield f"the gradient of {name} is not finite"


def unlike(given: Tensor, expected: Tensor) -> Iterator[str]:
    if given.dtype != torch.bfloat16:
        yield f"are {given.dtype}, expected torch.bfloat16"
    if not given.isfinite().all():
        yield "are not finite"
        return
    # Half of the rows: a router of experts may send a token elsewhere for a rounding.
    errors = ((given.float() - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-6)).flatten()
    if (typical := float(errors.detach().median())) > ROUNDING:
        yield f"differ from float32's by {typical:.2g} of their size in half of all rows, allowed {ROUNDING}"


def named(subject: Subject, trial: Trial, index: int) -> str:
    what = "logits" if subject.spec.kind == "backbone" else "features" if index == 0 else f"values of level {index - 1}"
    return f"{trial.name + ': ' if trial.name else ''}{what}"


# ---- recomputation


def recomputation(subject: Subject) -> Iterator[str]:
    with built(subject) as component:
        expected = outputs_and_gradients(component, trials(subject))
        for recompute in ("selective", "full"):
            yield from recomputed(subject, component, expected, recompute)


def recomputed(
    subject: Subject, component: Component[Any], expected: Mapping[str, Tensor], recompute: Literal["selective", "full"]
) -> Iterator[str]:
    again = build(subject, recompute=recompute)
    again.load_state_dict(component.state_dict())
    found = outputs_and_gradients(again, trials(subject))
    for name in expected.keys() | found.keys():
        if name not in found or name not in expected:
            yield f"with `train.recompute: {recompute}`, {name} is {'missing' if name in expected else 'there, and without it not'}"
        elif (worst := difference(found[name], expected[name])) > TOLERANCE:
            yield f"with `train.recompute: {recompute}`, {name} differ by {worst:.2g}"


def outputs_and_gradients(component: Component[Any], inputs: list[Trial]) -> dict[str, Tensor]:
    component.zero_grad()
    seed_step(1, 4)
    outputs = [output for trial in inputs for output in trial.run(component)]
    torch.autograd.backward(torch.stack([output.float().square().mean() for output in outputs]).sum())
    found = {f"outputs {index}": output.detach() for index, output in enumerate(outputs)}
    return found | {f"gradients of {name}": each.grad.clone() for name, each in component.named_parameters() if each.grad is not None}


# ---- twice


def determinism(subject: Subject) -> Iterator[str]:
    with built(subject) as component:
        inputs = trials(subject)
        component.eval()
        with torch.no_grad():
            for trial in inputs:
                for index, (first, second) in enumerate(zip(trial.run(component), trial.run(component), strict=True)):
                    if not torch.equal(first, second):
                        yield f"evaluated twice, {named(subject, trial, index)} differ by {difference(first, second):.2g}"
        component.train()
        first_pass, second_pass = (outputs_and_gradients(component, inputs) for _ in range(2))
        different = [name for name in first_pass if not torch.equal(first_pass[name], second_pass[name])]
        if different:
            yield f"trained twice from the same seed, {', '.join(different[:4])} differ"
