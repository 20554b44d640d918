"""One number each for red, green and blue."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, PositiveFloat

__all__ = ["Deviation", "Mean"]


def of_three_colours(values: list[float]) -> list[float]:
    if len(values) != 3:
        raise ValueError(f"given were {len(values)} of them; expected three numbers, of red, green and blue")
    return values


Mean = Annotated[list[float], AfterValidator(of_three_colours)]
Deviation = Annotated[list[PositiveFloat], AfterValidator(of_three_colours)]
