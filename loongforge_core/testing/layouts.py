"""Layout invariance (I1): a composition, in any layout, computes what one process computes.

    def test_layouts():
        check_layouts(composition, [Layout(data=2), Layout(tensor=2, sequence_parallel=True)], batches)

Compared are the initial weights, every parameter's gradient, losses and gradient norms, and the weights after the last step. Tensors are
compared by their global names and slices, so that a mismatch says which parameter, which layout, and by how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, distributed

from loongforge_core.config.composition import Composition
from loongforge_core.config.settings import EncoderLayout, ParallelSettings, RunSettings
from loongforge_core.model.batch import Batch
from loongforge_core.parallel.launch import run_ranks

if TYPE_CHECKING:
    from loongforge_core.train.step import Trainer

__all__ = [
    "TOLERANCES",
    "Deviation",
    "Layout",
    "Measured",
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
    # nothing, rounding decides how far: 3e-4 of the way of three steps was seen.
    "weights": 2e-3,
}
"""Largest differences, relative to the largest value of the whole tensor; weights: to the sum of the learning rates."""


BUCKET_SIZE = 2_000
"""So that small models have several buckets too."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout in few words; `settings` says it in those of `parallel:` and `train:`."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    sequence_parallel: bool = False
    first_stage: int | None = None
    """Decoder layers of the first pipeline stage."""
    last_stage: int | None = None
    encoder_stage: bool = False
    """The first pipeline stage holds no decoder layer."""
    encoders: Mapping[str, int] = field(default_factory=dict)
    """Tensor size of encoder slots; those that are not named are replicated."""
    optimizer: Literal["whole", "distributed", "overlapped"] = "whole"
    """`overlapped`: distributed, with gradients reduced and weights gathered while passes go on."""
    recompute: Literal["none", "selective", "full"] = "none"

    @property
    def world_size(self) -> int:
        return self.data * self.tensor * self.pipeline

    def __str__(self) -> str:
        sizes = [f"{name} {size}" for name in ("data", "tensor", "pipeline") if (size := getattr(self, name)) > 1]
        extras = [
            "sequence parallelism" if self.sequence_parallel else "",
            f"{self.first_stage} layers first" if self.first_stage is not None else "",
            f"{self.last_stage} layers last" if self.last_stage is not None else "",
            "an encoder stage" if self.encoder_stage else "",
            *(f"{slot} on {size} tensor ranks" for slot, size in self.encoders.items()),
            "" if self.optimizer == "whole" else f"{self.optimizer} optimizer",
            "" if self.recompute == "none" else f"{self.recompute} recomputation",
        ]
        named = ", ".join(filter(None, extras))
        return (" x ".join(sizes) or "one process") + (f" with {named}" if named else "")

    def settings(self, run: RunSettings) -> RunSettings:
        """The same run in this layout."""
        encoders = {
            slot: EncoderLayout(layout="tensor", tensor_model_parallel_size=size) if (size := self.encoders.get(slot)) else EncoderLayout()
            for slot in run.parallel.encoders
        }
        parallel = ParallelSettings(
            tensor_model_parallel_size=self.tensor,
            pipeline_model_parallel_size=self.pipeline,
            encoder_pipeline_model_parallel_size=int(self.encoder_stage),
            num_layers_in_first_pipeline_stage=self.first_stage,
            num_layers_in_last_pipeline_stage=self.last_stage,
            sequence_parallel=self.sequence_parallel,
            use_distributed_optimizer=self.optimizer != "whole",
            overlap_grad_reduce=self.optimizer == "overlapped",
            overlap_param_gather=self.optimizer == "overlapped",
            ddp_bucket_size=BUCKET_SIZE,
            encoders=encoders,
        )
        return run.model_copy(update={"parallel": parallel, "train": run.train.model_copy(update={"recompute": self.recompute})})


@dataclass(frozen=True)
class Part:
    """What a rank holds of a tensor."""

    name: str
    """The slot, then the global name."""
    offset: tuple[int, ...]
    value: Tensor
    rows: int | None
    """Of the whole tensor without vocabulary padding; None where it has none."""


@dataclass(frozen=True)
class Measured:
    """One rank's numbers."""

    initial: tuple[Part, ...]
    gradients: tuple[Part, ...]
    """Of the first step's mean loss."""
    final: tuple[Part, ...]
    losses: tuple[float, ...]
    grad_norms: tuple[float, ...]
    learning_rates: tuple[float, ...]


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
        *largest(layout, "gradients", tensor_differences(one.gradients, [rank.gradients for rank in ranks], layout)),
        *largest(layout, "gradient norm", number_differences(one.grad_norms, [rank.grad_norms for rank in ranks])),
        *largest(layout, "weights", tensor_differences(one.final, [rank.final for rank in ranks], layout, unit=sum(one.learning_rates))),
    ]
    wrong = [str(deviation) for deviation in found if not deviation.size <= TOLERANCES[deviation.what]]
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


def number_differences(one: Sequence[float], ranks: Sequence[Sequence[float]]) -> Iterator[tuple[str, float]]:
    for rank in ranks:
        for step, (given, expected) in enumerate(zip(rank, one, strict=True), start=1):
            yield f"step {step}", abs(given - expected) / abs(expected)


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
        padding = part.value[len(value) :].abs().max().item() if len(value) < len(part.value) else 0.0
        difference = float((value - expected).abs().max()) if value.numel() else 0.0
        yield part.name, max(difference, padding) / units[part.name]
    missing = {name: int(mask.sum()) for name, mask in unseen.items() if mask.any()}
    assert not missing, f"{layout}: on no rank: " + ", ".join(f"{count} values of {name}" for name, count in missing.items())


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
    whole = parts[0].value.new_full(shape, torch.nan)
    for part in parts:
        whole[slices(part)] = unpadded(part)
    return whole


def unpadded(part: Part) -> Tensor:
    return part.value if part.rows is None else part.value[: max(0, part.rows - part.offset[0])]


def slices(part: Part) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(part.offset, unpadded(part).shape, strict=True))


# ---- on a rank


def measure(composition: Composition, layout: Layout, batches: Sequence[Sequence[Batch]]) -> Measured:
    """This rank's numbers, in a fresh process of the right number of them."""
    trainer = trainer_in(composition, layout)
    return measure_steps(trainer, [share(step, trainer.groups.dp.rank(), layout.data) for step in batches])


def measure_steps(trainer: Trainer, shares: Sequence[Sequence[Batch]]) -> Measured:
    """A pass over this rank's share of the first global batch for its gradients, then a step on each."""
    initial = parts(trainer)
    gradients = gradients_of(trainer, shares[0])
    results = [trainer.step(each) for each in shares]
    trainer.gather_weights()
    return Measured(
        initial=initial,
        gradients=gradients,
        final=parts(trainer),
        losses=tuple(result.loss or 0.0 for result in results),
        grad_norms=tuple(result.grad_norm or 0.0 for result in results),
        learning_rates=tuple(result.learning_rate for result in results),
    )


def trainer_in(composition: Composition, layout: Layout) -> Trainer:
    """The composition on this rank of a layout, with the initial weights that its seed gives."""
    from loongforge_core.model.provider import OmniModelProvider
    from loongforge_core.parallel.groups import initialise_groups
    from loongforge_core.registry.registry import Registry
    from loongforge_core.train.step import build_trainer

    composition = replace(composition, run=layout.settings(composition.run))
    initialise_groups(composition.run.parallel, seed=composition.run.train.seed)
    registry = Registry.discover()
    for slot in composition.slots.values():
        if slot.spec not in [published.spec for published in registry.components(slot.spec.kind)]:
            registry.register(slot.spec)  # a test's own
    return build_trainer(composition, [OmniModelProvider(composition=composition, registry=registry)()])


def share(micro_batches: Sequence[Batch], rank: int, size: int) -> Sequence[Batch]:
    per_rank, rest = divmod(len(micro_batches), size)
    assert not rest, f"{len(micro_batches)} micro-batches cannot be shared by {size} data-parallel ranks"
    return micro_batches[rank * per_rank : (rank + 1) * per_rank]


def gradients_of(trainer: Trainer, micro_batches: Sequence[Batch]) -> tuple[Part, ...]:
    """Gradients take the place of the weights while their parts are copied: so what names and cuts weights serves them too."""
    for chunk in trainer.chunks:
        chunk.zero_grad_buffer()
    trainer.forward_backward(micro_batches)
    gather_reduced(trainer)
    trained = [parameter for model in trainer.models for parameter in model.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for parameter in trained:
            parameter.copy_(parameter.main_grad)  # type: ignore[attr-defined]
        found = parts(trainer)
        for parameter, weight in zip(trained, kept, strict=True):
            parameter.copy_(weight)
    return found


def gather_reduced(trainer: Trainer) -> None:
    """Of the distributed optimizer every data-parallel rank has reduced only its share of the gradients."""
    if not trainer.composition.run.parallel.use_distributed_optimizer:
        return
    group = trainer.groups.dp_cp
    for bucket in (bucket for chunk in trainer.chunks for buffer in chunk.buffers for bucket in buffer.buckets):
        own = bucket.grad_data.view(group.size(), -1)[group.rank()].clone()
        distributed.all_gather_into_tensor(bucket.grad_data, own, group=group)


def parts(trainer: Trainer) -> tuple[Part, ...]:
    """Copies of everything that this rank holds."""
    from loongforge_core.parallel.bookkeeping import pieces

    return tuple(
        Part(f"{slot}.{piece.name}", piece.offset, piece.tensor.clone(), component.published_rows(piece.name))
        for model in trainer.models
        for slot, component in model.components().items()
        for piece in pieces(component)
    )
