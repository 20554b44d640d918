"""Parameters: what they begin with, what reaches them; and what happens to inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from loongforge_core.errors import PluginError
from loongforge_core.parallel.bookkeeping import pieces
from loongforge_core.parallel.initialise import initialise
from loongforge_core.testing.conformance.subject import Subject
from loongforge_core.testing.conformance.trials import build, built, in_one_process, parameters_of, trials
from loongforge_core.weights.formats import slot_table

__all__ = ["derivatives", "gradients", "initial_values", "inputs_unchanged"]


TRIES = (1e-3, 1e-4, 1e-3)
"""Steps along random directions."""
SLOPE = {torch.float64: 2e-4, torch.float32: 0.003}
"""Of a gradient's size: steps are not infinitely small, and a few norms and angles stay in float32 even where all else is float64."""


def initial_values(subject: Subject) -> Iterator[str]:
    with in_one_process():
        component = build(subject)
        with torch.no_grad():
            for tensor in (*component.parameters(), *component.buffers()):
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)
        described = {piece.tensor.data_ptr(): piece.name for piece in pieces(component)}
        for name, parameter in component.named_parameters():
            if parameter.numel() and parameter.data_ptr() not in described:
                yield f"`sharded_state_dict` leaves {name} out: it has no initial value and no place in a checkpoint"
        try:
            initialise({subject.slot: component}, seed=1)
        except PluginError as error:
            yield str(error)
            return
        tensors = {name: tensor for name, tensor in component.state_dict().items() if isinstance(tensor, Tensor)}
        yield from (f"{name} begins with values that are not finite" for name, tensor in tensors.items() if not tensor.isfinite().all())
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        initialise({subject.slot: component}, seed=1)
        yield from (f"{name} begins with other values every time" for name in tensors if not torch.equal(tensors[name], before[name]))


def gradients(subject: Subject) -> Iterator[str]:
    with built(subject) as component:
        table = slot_table(subject.spec, component, subject.registry)
        for name, carried in component.named_parameters():
            if not carried.requires_grad and not any(fnmatchcase(name, pattern) for pattern in table.carried):
                yield f"{name} has `requires_grad` off, and no table lists it as carried"
        outputs = [output for trial in trials(subject) for output in trial.run(component)]
        generator = torch.Generator().manual_seed(2)
        weighted = [(output.float() * torch.randn(output.shape, generator=generator)).sum() for output in outputs]
        torch.autograd.backward(torch.stack(weighted).sum())
        for name, parameter in parameters_of(component).items():
            if parameter.grad is None:
                yield f"no gradient reaches {name}: `forward` does not use it"
            elif not parameter.grad.isfinite().all():
                yield f"the gradient of {name} is not finite"
            elif not parameter.grad.any():
                yield f"the gradient of {name} is nothing but zero: what it changes is not in the output"


def derivatives(subject: Subject) -> Iterator[str]:
    """In float64, which shows smaller mistakes, unless the component cannot be run in it."""
    try:
        found = list(wrong_slopes(subject, torch.float64))
    except Exception:  # whatever a stranger's module says to a dtype that it does not know
        found = list(wrong_slopes(subject, torch.float32))
    yield from found


def wrong_slopes(subject: Subject, dtype: torch.dtype) -> Iterator[str]:
    """Each parameter is moved a little to both sides, in a random direction."""
    with built(subject, dtype=dtype) as component:
        component.eval()  # a router's loss, which is not in the outputs, has a gradient in training
        inputs = trials(subject)[:1]
        generator = torch.Generator().manual_seed(6)

        def total() -> Tensor:
            generator.manual_seed(6)
            outputs = [output for trial in inputs for output in trial.run(component)]
            return torch.stack([(output.double() * torch.randn(output.shape, generator=generator)).sum() for output in outputs]).sum()

        torch.autograd.backward(total())
        gradients = {name: each.grad for name, each in parameters_of(component).items() if each.grad is not None}
        typical = torch.stack([gradient.norm() for gradient in gradients.values()]).median()
        alike = {re.sub(r"\.\d+\.", ".*.", name): name for name in gradients}  # one of layers that are alike
        for name, gradient in ((name, gradients[name]) for name in alike.values()):
            parameter, unit = component.get_parameter(name), gradient.norm() + 0.1 * typical
            wrong: list[Slope] = []
            for slope in slopes_along(parameter, gradient, total):
                if slope.error <= SLOPE[dtype] * unit + 3 * slope.doubt:
                    break
                wrong.append(slope)
            else:  # a router may choose other experts within one step, hardly within all
                yield f"along a random direction of {name}, {wrong[-1]}"


@dataclass(frozen=True)
class Slope:
    """How the output changes with a parameter."""

    seen: float
    expected: float
    doubt: float
    """How far the slope over a step of twice the size is from it."""

    @property
    def error(self) -> float:
        return abs(self.seen - self.expected)

    def __str__(self) -> str:
        return f"the output changes by {self.seen:.6g}, and its gradient says {self.expected:.6g}"


def slopes_along(parameter: Tensor, gradient: Tensor, total: Callable[[], Tensor]) -> Iterator[Slope]:
    """Along random directions, over steps of several sizes."""
    start = parameter.detach().clone()
    for seed, step in enumerate(TRIES):
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)).to(parameter.dtype)
        one, two = (slope_over(parameter, start, size * direction, total) / (2 * size) for size in (step, 2 * step))
        yield Slope(one, float((gradient * direction).sum()), abs(one - two))


@torch.no_grad()
def slope_over(parameter: Tensor, start: Tensor, step: Tensor, total: Callable[[], Tensor]) -> float:
    """How much the output differs from one side to the other."""
    parameter.copy_(start + step)
    above = total()
    parameter.copy_(start - step)
    below = total()
    parameter.copy_(start)
    return float(above - below)


def inputs_unchanged(subject: Subject) -> Iterator[str]:
    with built(subject) as component:
        for trial in trials(subject):
            tensors = {name: tensor.clone() for name, tensor in trial.tensors.items()}
            if subject.spec.kind == "backbone":
                tensors["hidden"] = component.embed(tensors["token_ids"]).detach()  # type: ignore[operator]
            before = {name: tensor.clone() for name, tensor in tensors.items()}
            outputs = trial.call(component, tensors)
            torch.autograd.backward(torch.stack([output.float().sum() for output in outputs]).sum())
            if tensors.keys() != before.keys():
                yield f"{', '.join(sorted(before.keys() ^ tensors.keys()))} is no longer among what it was given"
            for name, tensor in tensors.items():
                if name in before and not torch.equal(tensor, before[name]):
                    changed = int((tensor != before[name]).sum())
                    yield f"{trial.name + ': ' if trial.name else ''}{changed} of {tensor.numel()} values of {name!r} have changed"
