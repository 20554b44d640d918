"""How an error is told to the person at the terminal."""

from __future__ import annotations

import traceback

from loongforge_core.errors import ConfigError, LoongForgeError

__all__ = ["message_of"]


def message_of(error: LoongForgeError, *, debug: bool) -> str:
    """Without its traceback, unless that was asked for."""
    if debug:
        return "".join(traceback.format_exception(error)).rstrip()
    if isinstance(error, ConfigError) and len(error.issues) > 1:
        return "\n".join([f"{len(error.issues)} errors:", *(f"  {issue}" for issue in error.issues)])
    return f"error: {error}"
