"""Trees of plain data that name the toys, changed at some of their keys, and what is said of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from loongforge_core.config.check import composition_from
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Registry

__all__ = ["LARGE", "TREE", "changed", "changed_at", "issue", "issues", "messages_about"]

TREE: dict[str, Any] = {
    "model": {
        "image_encoder": {"type": "eye"},
        "image_projector": {"type": "bridge"},
        "foundation": {"type": "brain", "num_layers": 2, "hidden_size": 16},
    }
}
LARGE: dict[str, Any] = {
    "model": {
        "image_encoder": {"type": "eye", "width": 24},
        "audio_encoder": {"type": "ear", "width": 24},
        "foundation": {"type": "brain", "num_layers": 12, "hidden_size": 24, "num_attention_heads": 12, "vocab_size": 100},
    },
    "train": {"global_batch_size": 24},
}
"""Two encoders, of which `audio` can be split 12 ways, a language model of 12 layers and 12 heads, batches of 24."""


def changed_at(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with values put at dotted keys; None takes a key out."""
    made = copy.deepcopy(dict(tree))
    for key, value in changes.items():
        *above, last = key.split(".")
        here = made
        for part in above:
            here = here.setdefault(part, {})
        if value is None:
            del here[last]
        else:
            here[last] = value
    return made


def changed(**changes: Any) -> dict[str, Any]:
    """TREE, changed at keys whose dots are written `__`."""
    return changed_at(TREE, {key.replace("__", "."): value for key, value in changes.items()})


def messages_about(tree: Mapping[str, Any], registry: Registry, world_size: int | None) -> dict[str, str]:
    """What is said of every wrong key, which is one message each; nothing where all is right."""
    try:
        composition_from(tree, registry, world_size=world_size)
    except ConfigError as error:
        said = {issue.key: issue.message for issue in error.issues}
        assert len(said) == len(error.issues), "two messages about one key"
        return said
    return {}


def issues(registry: Registry, tree: Mapping[str, Any]) -> dict[str, str]:
    """Of a tree that one process shall run, and cannot."""
    found = messages_about(tree, registry, world_size=1)
    assert found, "nothing is said"
    return found


def issue(registry: Registry, **changes: Any) -> tuple[str, str]:
    """The only one of a changed TREE: its key, and what is said."""
    ((key, message),) = issues(registry, changed(**changes)).items()
    return key, message
