"""What trains, as a table: parameters per slot, trainable and frozen, with their learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Sequence

from loongforge_core.config.composition import Composition
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.train.optimizer import slot_rates

__all__ = ["trainable_table"]

HEADINGS = ("slot", "component", "parameters", "trainable", "frozen", "lr", "weight decay")


def trainable_table(composition: Composition, models: Sequence[OmniCombinationModel]) -> str:
    """One line per slot and one for all, of the parameters that this process holds."""
    counts: dict[str, tuple[int, int]] = {}
    for model in models:
        for slot, component in model.components().items():
            total, trainable = counts.get(slot, (0, 0))
            parameters = list(component.parameters())
            total += sum(parameter.numel() for parameter in parameters)
            trainable += sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
            counts[slot] = (total, trainable)
    rows = [HEADINGS]
    for slot_name, (total, trainable) in counts.items():
        filled = composition.slots[slot_name]
        lr, weight_decay = slot_rates(filled.settings, composition.run.train)
        rates = (f"{lr:g}", f"{weight_decay:g}") if trainable else ("-", "-")
        rows.append((slot_name, filled.spec.name, f"{total:,}", f"{trainable:,}", f"{total - trainable:,}", *rates))
    total, trainable = (sum(column) for column in zip(*counts.values(), strict=True))
    rows.append(("all", "", f"{total:,}", f"{trainable:,}", f"{total - trainable:,}", "", ""))
    return "\n".join(aligned(rows))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width) for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
