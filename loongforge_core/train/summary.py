"""What trains, as a table: parameters per slot, trainable and frozen, with their learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed

from loongforge_core.config.composition import Composition
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.parallel.bookkeeping import owned_parameters
from loongforge_core.parallel.groups import local_device
from loongforge_core.train.optimizer import slot_rates

__all__ = ["parameter_counts", "trainable_table"]

HEADINGS = ("slot", "component", "parameters", "trainable", "frozen", "lr", "weight decay")


def trainable_table(composition: Composition, models: Sequence[OmniCombinationModel]) -> str:
    """One line per slot and one for all, of the whole model; all ranks call it, and get the same."""
    rows = [HEADINGS]
    counts = parameter_counts(composition, models)
    for slot_name, (total, trainable) in counts.items():
        filled = composition.slots[slot_name]
        lr, weight_decay = slot_rates(filled.settings, composition.run.train)
        rates = (f"{lr:g}", f"{weight_decay:g}") if trainable else ("-", "-")
        rows.append((slot_name, filled.spec.name, f"{total:,}", f"{trainable:,}", f"{total - trainable:,}", *rates))
    total, trainable = (sum(column) for column in zip(*counts.values(), strict=True))
    rows.append(("all", "", f"{total:,}", f"{trainable:,}", f"{total - trainable:,}", "", ""))
    return "\n".join(aligned(rows))


def parameter_counts(composition: Composition, models: Sequence[OmniCombinationModel]) -> dict[str, tuple[int, int]]:
    """Parameters of each slot, and how many of them train: of the whole model, each counted on the rank that owns it."""
    counts = torch.zeros(len(composition.slots), 2, dtype=torch.int64, device=local_device())
    for model in models:
        for slot, component in model.components().items():
            row = counts[list(composition.slots).index(slot)]
            for parameter, count in owned_parameters(component):
                row += torch.tensor([count, count * parameter.requires_grad], device=row.device)
    distributed.all_reduce(counts)
    return {slot: (total, trainable) for slot, (total, trainable) in zip(composition.slots, counts.tolist(), strict=True)}


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width) for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
