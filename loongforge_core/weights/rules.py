"""How tensors on disk become parameters here, and back: one rule, two pure functions on whole tensors.

A rule names modules; the parts that it names (`weight`, and `bias` where there is one) follow. Rules know nothing of layouts or dtypes:
each rank takes its slice of the joined tensor, and where a rule only moves rows, reads no more than that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

__all__ = [
    "TENSOR",
    "WEIGHT",
    "WEIGHT_AND_BIAS",
    "Copy",
    "FusedGateUp",
    "FusedQkv",
    "Names",
    "OneOfStack",
    "Rule",
    "StackedQkv",
    "per_layer",
]

WEIGHT = ("weight",)
WEIGHT_AND_BIAS = ("weight", "bias")
TENSOR = ("",)
"""The names are tensors themselves, not modules."""

Names = str | tuple[str, ...]


def with_other_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    """`name` with the first of the prefixes that it has replaced by what the mapping says."""
    prefix = next(filter(name.startswith, prefixes), "")
    return prefixes.get(prefix, "") + name.removeprefix(prefix)


def as_tuple(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


@dataclass(frozen=True)
class Rule(ABC):
    """Tensors of `theirs` (on disk) <-> tensors of `ours`. Subclasses are frozen dataclasses; a plugin may bring its own."""

    theirs: Names
    ours: Names
    parts: tuple[str, ...] = field(default=WEIGHT, kw_only=True)
    moves_rows: ClassVar[bool] = False
    """`join` does nothing but put rows (along the first axis) into another order, whatever a row is: then only the rows that a rank needs
    are read. Otherwise all of `theirs` are in memory at once."""

    @abstractmethod
    def join(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        """One tensor for each of `ours`, from one for each of `theirs`. Works on meta tensors."""

    @abstractmethod
    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        """The inverse of `join`, bit for bit."""

    def under(self, theirs: str, ours: str) -> Self:
        """The same rule with a prefix before every name, one for each side."""
        return replace(
            self,
            theirs=tuple(theirs + name for name in as_tuple(self.theirs)),
            ours=tuple(ours + name for name in as_tuple(self.ours)),
        )

    def renamed(self, prefixes: Mapping[str, str]) -> Self:
        """The same rule where names on disk that begin so begin otherwise."""
        return replace(self, theirs=tuple(with_other_prefix(name, prefixes) for name in as_tuple(self.theirs)))

    def reads(self, given: tuple[int, ...], expected: tuple[int, ...]) -> bool:
        """Whether `join` takes a stored tensor of the shape `given`, where `split` gives `expected`."""
        return given == expected

    def tensors(self) -> Iterable[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Names of tensors on both sides, part by part."""
        for part in self.parts:
            suffix = f".{part}" if part else ""
            yield tuple(name + suffix for name in as_tuple(self.theirs)), tuple(name + suffix for name in as_tuple(self.ours))


def per_layer(rules: Iterable[Rule], theirs: str, ours: str, layers: Iterable[int], *, first: int = 0) -> tuple[Rule, ...]:
    """The rules of one layer for each of `layers`; `{i}` in the two prefixes is the layer's number, counted from `first` on our side."""
    one_layer = tuple(rules)
    return tuple(rule.under(theirs.format(i=layer), ours.format(i=layer - first)) for layer in layers for rule in one_layer)


@dataclass(frozen=True)
class Copy(Rule):
    """The same tensor under another name."""

    moves_rows: ClassVar[bool] = True

    def join(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        return theirs

    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return ours


@dataclass(frozen=True, kw_only=True)
class FusedQkv(Rule):
    """Queries, keys, values -> Megatron's one projection: for every group its queries, its key, its value."""

    moves_rows: ClassVar[bool] = True

    num_heads: int
    num_groups: int
    head_size: int

    def join(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        grouped = [tensor.reshape(self.num_groups, -1, *tensor.shape[1:]) for tensor in theirs]
        return [torch.cat(grouped, dim=1).reshape(-1, *theirs[0].shape[1:])]

    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        (fused,) = ours
        rows = [self.num_heads // self.num_groups * self.head_size, self.head_size, self.head_size]
        grouped = fused.reshape(self.num_groups, sum(rows), *fused.shape[1:])
        return [part.reshape(-1, *fused.shape[1:]) for part in torch.split(grouped, rows, dim=1)]


@dataclass(frozen=True, kw_only=True)
class StackedQkv(FusedQkv):
    """Theirs is one projection too: all queries, then all keys, then all values."""

    def join(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        queries, keys = self.num_heads * self.head_size, self.num_groups * self.head_size
        return super().join(torch.split(theirs[0], [queries, keys, keys]))

    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return [torch.cat(list(super().split(ours)))]


@dataclass(frozen=True)
class FusedGateUp(Rule):
    """The two halves of a gated MLP's first layer: gate, then up."""

    moves_rows: ClassVar[bool] = True

    def join(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        return [torch.cat(list(theirs))]

    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return ours[0].chunk(2)


@dataclass(frozen=True)
class OneOfStack(Rule):
    """Experts that lie in one tensor on disk, `[experts, ...]`, and one by one here: as many of `ours` as the stack is high."""

    moves_rows: ClassVar[bool] = True

    def join(self, theirs: Sequence[Tensor]) -> Sequence[Tensor]:
        return theirs[0].unbind()

    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return [torch.stack(list(ours))]
