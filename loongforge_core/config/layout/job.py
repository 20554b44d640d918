"""What is to be run in a layout, what can be wrong with it, and the values in which ways out are looked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from loongforge_core.component import BackboneConfig
from loongforge_core.config.composition import Slot
from loongforge_core.config.settings import RunSettings
from loongforge_core.config.slot_names import FOUNDATION, slot_kind

__all__ = ["PROCESSES", "Job", "Problem", "Purpose", "around", "division", "divisors_around"]

PROCESSES = "processes"
"""Stands among the keys for how many there are."""

Purpose = Literal["train", "other"]
"""`other` needs no batches."""

MOST = 4096
"""Values above this are not tried."""


@dataclass(frozen=True)
class Job:
    """What is to be run."""

    run: RunSettings
    slots: Mapping[str, Slot]
    """Those that are right by themselves."""
    filled: frozenset[str]
    """Names of all slots."""
    world_size: int | None
    purpose: Purpose

    @property
    def foundation(self) -> BackboneConfig | None:
        slot = self.slots.get(FOUNDATION)
        return slot.config if slot else None  # type: ignore[return-value]

    @property
    def has_encoder(self) -> bool:
        return any(slot_kind(name) == "encoder" for name in self.filled)

    def changed(self, key: str, value: int) -> Job:
        if key == PROCESSES:
            return replace(self, world_size=value)
        section, *slot, name = key.split(".")
        settings: Any = getattr(self.run, section)
        change: dict[str, Any] = {name: value}
        if slot:
            encoders = settings.encoders
            change = {"encoders": {**encoders, slot[0]: encoders[slot[0]].model_copy(update=change)}}
        return replace(self, run=self.run.model_copy(update={section: settings.model_copy(update=change)}))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    key: str
    message: str
    fixes: Mapping[str, Iterable[int]] = field(default_factory=dict)
    """Keys whose change may mend it, with the values to try, the nearest first. Made when they are tried, since few are."""


def around(given: int, lowest: int, highest: int) -> Iterator[int]:
    """Whole numbers by their distance from `given`, the smaller of two first; at most `MOST`."""
    yield from sorted(range(lowest, min(highest, MOST) + 1), key=lambda value: (abs(value - given), value))


def divisors_around(given: int, whole: int) -> Iterator[int]:
    return (size for size in around(given, 1, whole) if whole % size == 0)


def division(whole: int, parts: int) -> str:
    """The arithmetic of a remainder."""
    return f"{whole} = {whole // parts} x {parts} + {whole % parts}"
