"""Nothing that matters is outside the module's parameters and buffers, and nothing outside the module is asked or changed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor, distributed, nn

from loongforge_core.layers.interfaces import BuildContext, Component
from loongforge_core.model.auto import AutoModel
from loongforge_core.parallel.groups import component_groups
from loongforge_core.testing.conformance.judge import raised
from loongforge_core.testing.conformance.subject import Subject
from loongforge_core.testing.conformance.trials import Trial, build, built, difference, draw, in_one_process, trials

__all__ = ["global_state", "state"]


# ---- the component's own


def state(subject: Subject) -> Iterator[str]:
    torch_before = state_of_torch()
    with built(subject) as component:
        yield from changed_in_torch("building it", torch_before, subject)
        yield from loose_tensors(component)
        component.eval()
        inputs = trials(subject)
        stored = {name: value.clone() for name, value in component.state_dict().items() if isinstance(value, Tensor)}
        torch_before = state_of_torch()
        with torch.no_grad():
            first = outputs_of(component, inputs)
            outputs_of(component, [replace(trial, tensors=turned(trial)) for trial in inputs])
            again = outputs_of(component, inputs)
        yield from changed_in_torch("evaluating it", torch_before, subject)
        yield from loose_tensors(component, "after a pass, ")
        yield from (
            f"after a pass over another input of the same sizes, an input gives other outputs, by {worst:.2g}: something was left behind"
            for one, two in zip(first, again, strict=True)
            if (worst := difference(two, one)) > 0
        )
        changed = [name for name, value in stored.items() if not torch.equal(component.state_dict()[name], value)]
        if changed:
            yield f"evaluating it changes {', '.join(changed)}"
        if seeds_torch(lambda: build(subject)):
            yield "building it seeds torch's random numbers: everything that is drawn behind it depends on it"
        if seeds_torch(lambda: outputs_of(component.train(), inputs)):
            yield "running it seeds torch's random numbers: everything that is drawn behind it depends on it"
        component.eval()
        yield from another_instance(subject, component, inputs)


def seeds_torch(run: Callable[[], object]) -> bool:
    """Whether random numbers behind it are the same whatever the seed was before."""
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        run()
        drawn.append(float(torch.rand(())))
    return drawn[0] == drawn[1]


def turned(trial: Trial) -> dict[str, Tensor]:
    """Another input of the same sizes."""
    return {
        name: -tensor if tensor.is_floating_point() else tensor.flip(-1) if name == "token_ids" else tensor
        for name, tensor in trial.tensors.items()
    }


def another_instance(subject: Subject, component: Component[Any], inputs: list[Trial]) -> Iterator[str]:
    """Both with the same new parameters and buffers: the one that was run with others before, and one that was just built."""
    torch.manual_seed(12345)
    other = build(subject)
    draw(subject, other, seed=2)
    parameters = dict(other.named_parameters())
    with torch.no_grad():
        for name, value in other.state_dict().items():  # buffers that are stored: a checkpoint may bring others
            if name not in parameters and isinstance(value, Tensor) and value.is_floating_point():
                value.mul_(1.25)
    missing = component.load_state_dict(other.state_dict(), strict=False)
    if missing.missing_keys or missing.unexpected_keys:
        yield f"two instances do not have the same state: {[*missing.missing_keys, *missing.unexpected_keys][:6]}"
    component.eval()
    other.eval()
    with torch.no_grad():
        both = zip(outputs_of(component, inputs), outputs_of(other, inputs), strict=True)
    for ours, theirs in both:
        if (worst := difference(ours, theirs)) > 1e-5:
            yield f"two instances with the same parameters and buffers, one of them run before with others, differ by {worst:.2g}"


def outputs_of(component: Component[Any], inputs: list[Trial]) -> list[Tensor]:
    return [torch.cat([output.float().flatten() for output in trial.run(component)]) for trial in inputs]


def loose_tensors(component: nn.Module, when: str = "") -> Iterator[str]:
    """Tensors that modules hold as plain attributes; those of Megatron's own modules are Megatron's business."""
    for name, module in component.named_modules():
        if type(module).__module__.startswith(("torch.", "megatron.")):
            continue
        for attribute, value in vars(module).items():
            if attribute not in ("_parameters", "_buffers", "_modules") and holds_tensor(value):
                where = f"{name}.{attribute}" if name else attribute
                yield f"{when}`{where}` of {type(module).__name__} holds a tensor that is neither a parameter nor a buffer"


def holds_tensor(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    if isinstance(value, dict):
        return any(map(holds_tensor, value.values()))
    return isinstance(value, list | tuple) and any(map(holds_tensor, value))


def state_of_torch() -> dict[str, Any]:
    return {
        "the default dtype": torch.get_default_dtype(),
        "whether gradients are computed": torch.is_grad_enabled(),
        "whether algorithms are deterministic": torch.are_deterministic_algorithms_enabled(),
        "the number of threads": torch.get_num_threads(),
        "the precision of matrix products": torch.get_float32_matmul_precision(),
    }


def changed_in_torch(when: str, before: dict[str, Any], subject: Subject) -> Iterator[str]:
    after = state_of_torch()
    for name, value in before.items():
        if after[name] != value:
            yield f"{when} changes {name} of this process from {value} to {after[name]}"


# ---- Megatron's


def global_state(subject: Subject) -> Iterator[str]:
    """Megatron's state is taken away while the component is built and run with groups of its own."""
    with in_one_process():
        groups = component_groups()
        said = None
        component = None
        with without_global_groups():
            try:
                component = AutoModel.from_config(subject.config, BuildContext(groups=groups), subject.registry, spec=subject.spec)
            except AssertionError as error:
                said = f"built without Megatron's global groups, {raised(error)}"
        if component is None:
            yield said or "it cannot be built"
            return
        draw(subject, component)
        inputs = trials(subject)
        with without_global_groups(), watched_default_group() as asked:
            try:
                for trial in inputs:
                    torch.autograd.backward(torch.stack([output.float().sum() for output in trial.run(component)]).sum())
            except AssertionError as error:
                said = f"run without Megatron's global groups, {raised(error)}"
        if said:
            yield said
        yield from (f"it calls {call}, without a group: that is all processes of the run" for call in sorted(asked))


GROUP_CALLS = ("get_rank", "get_world_size", "all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast")


@contextlib.contextmanager
def watched_default_group() -> Iterator[set[str]]:
    """Calls of torch.distributed that name no group, by others than Megatron, torch and core."""
    calls: set[str] = set()

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)
            asker = str(frame.f_globals.get("__name__", ""))
            named = kwargs.get("group") is not None or any(isinstance(each, distributed.ProcessGroup) for each in args)
            if not named and asker.partition(".")[0] not in ("torch", "megatron", "loongforge_core"):
                calls.add(f"torch.distributed.{name} ({frame.f_code.co_filename}:{frame.f_lineno})")
            return real(*args, **kwargs)

        return call

    before = {name: getattr(distributed, name) for name in GROUP_CALLS}
    vars(distributed).update({name: watched(name, real) for name, real in before.items()})
    try:
        yield calls
    finally:
        vars(distributed).update(before)


def holds_groups(value: Any) -> bool:
    """Process groups, or the numbers of their ranks."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, int | distributed.ProcessGroup)


@contextlib.contextmanager
def without_global_groups() -> Iterator[None]:
    before = {
        name: value for name, value in vars(parallel_state).items() if name.startswith("_") and name.isupper() and holds_groups(value)
    }
    vars(parallel_state).update(dict.fromkeys(before))
    try:
        yield
    finally:
        vars(parallel_state).update(before)
