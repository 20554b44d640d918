"""How a recipe writes items, and which positions tokens have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from loongforge_core.component import ItemMarkup, ItemSpan, RecipeConfig, Shape
from loongforge_core.testing.conformance.subject import NotApplicable, Subject

__all__ = ["markup", "positions"]

GRIDS: tuple[Shape, ...] = ((4, 6), (2, 4, 2), (2, 2), (6,))
TEXT = 5
"""Tokens of text before each item and behind the last."""


def markup(subject: Subject) -> Iterator[str]:
    config: RecipeConfig = subject.config_class(**subject.config_class.tiny)
    for modality in subject.spec.modalities:
        try:
            written = config.markup(modality)
        except Exception as error:
            yield f"its specification lists {modality}, but markup({modality!r}) raises {type(error).__name__}: {error}"
            continue
        if not isinstance(written, ItemMarkup) or not written.placeholder:
            yield f"markup({modality!r}) is {written!r}, expected an ItemMarkup with a placeholder"
        elif written.placeholder in written.before or written.placeholder in written.after:
            yield f"markup({modality!r}) has its placeholder {written.placeholder!r} more than once: an item would have several places"
    if not subject.spec.modalities:
        return
    unknown = "no_such_modality"
    try:
        written = config.markup(unknown)
    except KeyError:
        return
    except Exception as error:
        yield f"markup({unknown!r}) raises {type(error).__name__}, expected KeyError"
        return
    yield f"markup({unknown!r}) is {str(written)!r}, expected KeyError: its specification lists {', '.join(subject.spec.modalities)}"


def positions(subject: Subject) -> Iterator[str]:
    config: RecipeConfig = subject.config_class(**subject.config_class.tiny)
    axes = config.position_axes
    yield from positions_of(config, 9, [], "a sample of text alone", axes)
    tried = []
    for modality in subject.spec.modalities:
        for grid in GRIDS:
            try:
                runs = config.runs(modality, grid, {})
                spans = spans_of(modality, [run.grid for run in runs])
                length = spans[-1].start + spans[-1].num_tokens + TEXT
                config.position_ids(length, spans)
            except Exception:  # a recipe takes the grids of its encoders, and may need details that only their processors know
                continue
            tried.append(grid)
            if (written := sum(math.prod(run.grid) for run in runs)) != math.prod(grid):
                yield f"of {modality}, an item whose tokens lie {grid} is written as {written} tokens: {runs}"
            yield from positions_of(config, length, spans, f"a sample with an item of {modality} whose tokens lie {grid}", axes)
    if subject.spec.modalities and not tried:
        raise NotApplicable(f"it takes items in none of the grids {GRIDS}; positions of text alone were looked at")


def spans_of(modality: str, grids: list[Shape]) -> list[ItemSpan]:
    spans: list[ItemSpan] = []
    start = TEXT
    for index, grid in enumerate(grids):
        spans.append(ItemSpan(modality, start, grid, {}, continues=index > 0))
        start += spans[-1].num_tokens + 1
    return spans


def positions_of(config: Any, length: int, spans: list[ItemSpan], what: str, axes: int) -> Iterator[str]:
    given = config.position_ids(length, spans)
    expected = (length,) if axes == 1 else (axes, length)
    if not isinstance(given, np.ndarray) or given.dtype != np.int64 or given.shape != expected:
        described = f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else repr(type(given).__name__)
        yield f"the positions of {what} are {described}, expected int64 {expected}"
        return
    if given.min() < 0 or given.max() >= length:
        yield f"the positions of {what} go from {given.min()} to {given.max()}, beyond its {length} tokens"
    if not spans and not (given == np.arange(length)).all():
        yield f"the positions of {what} are not 0, 1, 2, ..."
