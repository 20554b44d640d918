"""What the person at the terminal reads: errors and tables."""

from __future__ import annotations

import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence

from loongforge_core.errors import ConfigError, LoongForgeError

__all__ = ["message_of", "print_table"]

NARROWEST = 30
"""A column is not folded into less."""


def message_of(error: LoongForgeError, *, debug: bool) -> str:
    """Without its traceback, unless that was asked for."""
    if debug:
        return "".join(traceback.format_exception(error)).rstrip()
    if isinstance(error, ConfigError) and len(error.issues) > 1:
        return "\n".join([f"{len(error.issues)} errors:", *(f"  {issue}" for issue in error.issues)])
    return f"error: {error}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns side by side, under a header where there is one; on a terminal, the last is folded to what is left of its width."""
    table = [header, *rows] if header else list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    before = sum(widths[:-1]) + 2 * len(widths[:-1])
    room = max(NARROWEST, shutil.get_terminal_size().columns - before) if sys.stdout.isatty() else max(widths[-1], 1)
    for *cells, last in table:
        first, *others = textwrap.wrap(last, room) or [""]
        print("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths)), first]).rstrip())
        for line in others:
            print(f"{'':{before}}{line}")
