"""JSON in which a key may not be there twice. Python's own reader keeps the last one and says nothing."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["load_json"]


def load_json(text: str | bytes) -> Any:
    """The value. Raises ValueError for what is not JSON, for an object with a key twice, and for brackets without end."""
    try:
        return json.loads(text, object_pairs_hook=object_without_repeats)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return tree
