"""Every error that a user can meet.

    LoongForgeError            something failed while running            exit status 1
    └── InputError             the user's input is wrong                 exit status 2
        ├── ConfigError        YAML, overrides, layouts (all at once)
        ├── DataError          a data file, a line of it, an item
        ├── WeightsError       a Hugging Face folder
        ├── CheckpointError    a checkpoint of ours
        ├── PluginError        an installed component that cannot be used
        └── VersionError       an installed library outside the tested range

A message says what was given, what was expected, where, and the nearest valid name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "InputError",
    "Issue",
    "LoongForgeError",
    "PluginError",
    "VersionError",
    "WeightsError",
    "did_you_mean",
    "near_match",
]


class LoongForgeError(Exception):
    """Something failed while running."""

    exit_status = 1


class InputError(LoongForgeError):
    """What the user gave is wrong; the message is all they need."""

    exit_status = 2


@dataclass(frozen=True)
class Issue:
    """One thing wrong in a configuration."""

    message: str
    """What was given and what was expected, in one line."""
    key: str = ""
    """Dotted path, such as `model.foundation.num_layers`."""
    where: str = ""
    """`file:line`, or `command line`."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class ConfigError(InputError):
    """All that is wrong in a configuration, at once."""

    def __init__(self, issues: Sequence[Issue] | Issue | str) -> None:
        if isinstance(issues, str):
            issues = Issue(issues)
        self.issues: tuple[Issue, ...] = (issues,) if isinstance(issues, Issue) else tuple(issues)
        super().__init__("\n".join(str(issue) for issue in self.issues))


class DataError(InputError):
    """A data file, a line of it, or an item it names."""


class WeightsError(InputError):
    """A Hugging Face folder that does not fit the model."""


class CheckpointError(InputError):
    """A checkpoint that is incomplete or belongs to another model."""


class PluginError(InputError):
    """An installed component that is broken, ambiguous or of another API version."""


class VersionError(InputError):
    """An installed library outside the tested range."""


def near_match(given: str, valid: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest valid name, else nothing: for many names, or many messages."""
    near = difflib.get_close_matches(given, sorted(set(valid)), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest valid name, else the valid names, else nothing."""
    names = sorted(set(valid))
    if near := near_match(given, names):
        return near
    if not names:
        return ""
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; valid: {shown}"
