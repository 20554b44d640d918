"""Layout invariance (I1): a composition, in any layout, computes what one process computes.

    def test_layouts():
        check_layouts(composition, [Layout(data=2), Layout(tensor=2, sequence_parallel=True)], batches)

Compared are the initial weights, every parameter's gradient, losses and gradient norms, and the weights after the last step. Tensors are
compared by their global names and slices, so that a mismatch says which parameter, which layout, and by how much. And every value of a
parameter has one owner (I9): it is counted once in the gradient norm, for each data-parallel rank, and stored once in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loongforge_core.config.composition import Composition
from loongforge_core.model.batch import Batch
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.testing.measure import Layout, Measured, Owned, Part, measure, measure_steps, share, trainer_in

__all__ = [
    "TOLERANCES",
    "Deviation",
    "Layout",
    "Measured",
    "Owned",
    "Part",
    "check_layouts",
    "compare",
    "measure",
    "measure_steps",
    "share",
    "trainer_in",
]

TOLERANCES: Mapping[str, float] = {
    "initial weights": 0.0,  # the same random numbers, copied
    "loss": 1e-5,  # I1
    "gradient norm": 1e-4,  # I1
    # A gradient sums thousands of float32 terms whose order depends on the layout: about 1e-6 of its largest value was seen.
    "gradients": 1e-5,
    # Adam divides a gradient by its own size, so a weight moves by its learning rate at every step, and where the gradient is next to
    # nothing, rounding decides how far: 1.4e-3 of the way of three steps was seen with `train.adam_eps` 1e-6, 3e-4 with 1e-5.
    "weights": 2e-3,
}
"""Largest differences, relative to the largest value of the whole tensor; weights: to the sum of the learning rates."""


@dataclass(frozen=True)
class Deviation:
    """The largest difference of a layout from one process in one respect."""

    layout: Layout
    what: str
    """A key of `TOLERANCES`."""
    where: str
    """The parameter, or the step."""
    size: float

    def __str__(self) -> str:
        allowed = TOLERANCES[self.what]
        return f"{self.layout}: {self.what} of {self.where} differ from one process's by {self.size:.3g}, allowed {allowed:.3g}"


# ---- from outside


def check_layouts(composition: Composition, layouts: Sequence[Layout], batches: Sequence[Sequence[Batch]]) -> list[Deviation]:
    """Runs one process and every layout on forked ranks; the largest differences in every respect, all of them within tolerance.

    `batches` are the micro-batches of each step's global batch; data-parallel ranks take consecutive shares. AssertionError names the
    layout and the parameter of every difference beyond `TOLERANCES`.
    """
    (one,) = run_ranks(measure, 1, composition, Layout(), batches)
    deviations = []
    for layout in layouts:
        deviations += compare(one, run_ranks(measure, layout.world_size, composition, layout, batches), layout)
    return deviations


def compare(one: Measured, ranks: Sequence[Measured], layout: Layout) -> list[Deviation]:
    """The largest difference in every respect. Raises AssertionError where one is too large, or a value of a tensor is on no rank."""
    found = [
        *largest(layout, "initial weights", tensor_differences(one.initial, [rank.initial for rank in ranks], layout)),
        *largest(layout, "loss", number_differences(one.losses, [rank.losses for rank in ranks])),
        *largest(layout, "loss", named_differences(one.losses_by_content, [rank.losses_by_content for rank in ranks])),
        *largest(layout, "gradients", tensor_differences(one.gradients, [rank.gradients for rank in ranks], layout)),
        *largest(layout, "gradient norm", number_differences(one.grad_norms, [rank.grad_norms for rank in ranks])),
        *largest(layout, "gradient norm", named_differences(one.grad_norms_by_slot, [rank.grad_norms_by_slot for rank in ranks])),
        *largest(layout, "weights", tensor_differences(one.final, [rank.final for rank in ranks], layout, unit=sum(one.learning_rates))),
    ]
    wrong = [str(deviation) for deviation in found if not deviation.size <= TOLERANCES[deviation.what]]
    wrong += not_owned_once(ranks, layout)
    assert not wrong, "\n".join(wrong)
    # One line for each respect is enough where all is well.
    return [max((each for each in found if each.what == what), key=lambda each: each.size) for what in TOLERANCES]


def largest(layout: Layout, what: str, differences: Iterator[tuple[str, float]]) -> list[Deviation]:
    """Every place's largest difference, the worst place first."""
    worst: dict[str, float] = {}
    for where, size in differences:
        # A difference that is not a number is the largest of all.
        worst[where] = max(worst.get(where, 0.0), size if size == size else float("inf"))
    return [Deviation(layout, what, where, worst[where]) for where in sorted(worst, key=lambda where: -worst[where])]


def number_differences(one: Sequence[float | None], ranks: Sequence[Sequence[float | None]]) -> Iterator[tuple[str, float]]:
    """Relative ones; a number that is there on one side only is infinitely far off."""
    for rank in ranks:
        for step, (given, expected) in enumerate(zip(rank, one, strict=True), start=1):
            if given is None or expected is None:
                yield f"step {step}", 0.0 if given is expected else float("inf")
            else:
                yield f"step {step}", abs(given - expected) / (abs(expected) or 1.0)


Named = Sequence[Mapping[str, float | None]]
"""Of each step: numbers by name."""


def named_differences(one: Named, ranks: Sequence[Named]) -> Iterator[tuple[str, float]]:
    """The same of each name's numbers."""
    for name in one[0]:
        theirs = number_differences([step[name] for step in one], [[step[name] for step in rank] for rank in ranks])
        yield from ((f"{name} in {where}", size) for where, size in theirs)


def tensor_differences(
    one: Sequence[Part], ranks: Sequence[Sequence[Part]], layout: Layout, *, unit: float | None = None
) -> Iterator[tuple[str, float]]:
    """Differences by parameter, in units of the tensor's largest value, or of `unit`."""
    whole = {name: together(parts) for name, parts in by_name(one).items()}
    units = {name: unit or float(tensor.abs().max()) or 1.0 for name, tensor in whole.items()}
    unseen = {name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in whole.items()}
    for part in (part for rank in ranks for part in rank):
        assert part.name in whole, f"{layout}: {part.name} is no parameter of one process"
        expected, value = whole[part.name][slices(part)], unpadded(part)
        assert expected.shape == value.shape, f"{layout}: {part.name} at {part.offset} is {tuple(value.shape)}, beyond the whole tensor"
        unseen[part.name][slices(part)] = False
        for beyond in (value - expected, padding_of(part)):
            if beyond.numel():
                yield part.name, float(beyond.abs().max()) / units[part.name]
    missing = {name: int(mask.sum()) for name, mask in unseen.items() if mask.any()}
    assert not missing, f"{layout}: on no rank: " + ", ".join(f"{count} values of {name}" for name, count in missing.items())


def not_owned_once(ranks: Sequence[Measured], layout: Layout) -> Iterator[str]:
    """A sentence for every parameter whose values are not counted once, for each data-parallel rank, and stored once."""
    whole = {part.name: part.shape for rank in ranks for part in rank.owned}
    for name, shape in whole.items():
        everywhere = [part for rank in ranks for part in rank.owned if part.name == name]
        for replica in range(everywhere[0].replicas):
            if said := not_once(shape, [part.where for part in everywhere if part.replica == replica and part.counted]):
                yield f"{layout}: {said} {name} are counted in the gradient norm of data rank {replica}"
        if said := not_once(shape, [part.where for part in everywhere if part.stored]):
            yield f"{layout}: {said} {name} are stored in a checkpoint"


def not_once(shape: tuple[int, ...], parts: Sequence[tuple[slice, ...]]) -> str:
    """How many values of a tensor are in no part or in several; empty where each is in one."""
    times = torch.zeros(shape, dtype=torch.int64)
    for where in parts:
        times[where] += 1
    wrong = times[times != 1]
    counts = " or ".join(f"{number} times" for number in sorted(set(wrong.tolist())))
    return f"not once but {counts}, {len(wrong)} of {times.numel()} values of" if len(wrong) else ""


def by_name(parts: Sequence[Part]) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = {}
    for part in parts:
        found.setdefault(part.name, []).append(part)
    return found


def together(parts: Sequence[Part]) -> Tensor:
    """The whole tensor, of which one process holds all parts, without vocabulary padding."""
    shape = [
        max(part.offset[axis] + size for part in parts for size in [unpadded(part).shape[axis]]) for axis in range(parts[0].value.dim())
    ]
    whole = torch.full(shape, torch.nan, dtype=torch.float64)
    for part in parts:
        whole[slices(part)] = unpadded(part)
    return whole


def unpadded(part: Part) -> Tensor:
    return part.value if part.rows is None else part.value[: max(0, part.rows - part.offset[0])]


def padding_of(part: Part) -> Tensor:
    """The rows that pad a vocabulary, which are zero."""
    return part.value.new_empty(0) if part.rows is None else part.value[max(0, part.rows - part.offset[0]) :]


def slices(part: Part) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(part.offset, unpadded(part).shape, strict=True))
