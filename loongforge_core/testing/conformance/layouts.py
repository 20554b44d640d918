"""In every layout a component computes what one process computes: on forked ranks, parameter by parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from loongforge_core.errors import ConfigError
from loongforge_core.layers.interfaces import Component  # noqa: F401 - Megatron is loaded before ranks are measured
from loongforge_core.model.batch import Batch
from loongforge_core.parallel.launch import RankError, run_ranks
from loongforge_core.testing.batches import batches_with_items
from loongforge_core.testing.conformance.compositions import require_invariance
from loongforge_core.testing.conformance.samples import drawn_items
from loongforge_core.testing.conformance.subject import NotApplicable, Subject
from loongforge_core.testing.layouts import Layout, Measured, Part, compare, measure

__all__ = ["layout_data", "layout_pipeline", "layout_replicate", "layout_tensor"]

ROUNDING = 1e-5
"""Of the largest gradient: a tensor whose own is below, such as a key bias, has a gradient of nothing but rounding."""


def layout_data(subject: Subject) -> Iterator[str]:
    yield from compared(subject, [Layout(data=2)])


def layout_replicate(subject: Subject) -> Iterator[str]:
    yield from compared(subject, [Layout(tensor=2)])


def layout_tensor(subject: Subject) -> Iterator[str]:
    if conflicts := subject.config.tensor_parallel_conflicts(2):
        raise NotApplicable(f"`tensor_parallel_conflicts` says that it is not split over two ranks: {'; '.join(conflicts)}")
    if subject.spec.kind != "backbone":
        encoder = next(iter(subject.composition.slots))
        yield from compared(subject, [Layout(tensor=2, encoders={encoder: 2})])
        return
    sequence = Layout(tensor=2, sequence_parallel=True)
    yield from compared(subject, [sequence] if subject.config.needs_sequence_parallel else [Layout(tensor=2), sequence])


def layout_pipeline(subject: Subject) -> Iterator[str]:
    foundation = subject.composition.foundation
    assert foundation is not None
    if foundation.num_layers < 2:
        raise NotApplicable("its tiny size has one layer, which two stages cannot share")
    first = foundation.num_layers // 2
    yield from compared(subject, [Layout(pipeline=2, first_stage=first)])


def compared(subject: Subject, layouts: Sequence[Layout]) -> Iterator[str]:
    require_invariance(subject)
    batches = batches_with_items(subject.composition, subject.modality, drawn_items(subject))
    try:
        (one,) = measured(subject, Layout(), batches)
    except RankError as error:
        yield f"one process: {said_by(error)}"
        return
    noise = {part.name for part in one.gradients} - {part.name for part in loud(one.gradients)}
    for layout in layouts:
        try:
            ranks = measured(subject, layout, batches)
            compare(quiet(one, noise), [quiet(rank, noise) for rank in ranks], layout)
        except RankError as error:
            yield f"{layout}: {said_by(error)}"
        except AssertionError as error:
            yield from str(error).splitlines()[:6]


def said_by(error: RankError) -> str:
    """The rank, and the exception that ended it."""
    first, *others = str(error).splitlines()
    return ": ".join([first, *[line.strip() for line in others if line[:1].strip()][-1:]])


def measured(subject: Subject, layout: Layout, batches: Sequence[Sequence[Batch]]) -> list[Measured]:
    try:
        return run_ranks(measure, layout.world_size, subject.composition, layout, batches, timeout_s=120)
    except ConfigError as error:
        raise NotApplicable(str(error)) from error


def loud(gradients: Sequence[Part]) -> list[Part]:
    largest = max(float(part.value.abs().max()) for part in gradients if part.value.numel())
    return [part for part in gradients if part.value.numel() and float(part.value.abs().max()) > ROUNDING * largest]


def quiet(measured: Measured, noise: set[str]) -> Measured:
    """Without gradients that are rounding: they are as large in one order of operations as they differ in another."""
    return replace(measured, gradients=tuple(part for part in measured.gradients if part.name not in noise))
