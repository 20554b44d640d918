"""What the person at the terminal reads: errors and tables."""

from __future__ import annotations

import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence

from loongforge_core.errors import ConfigError, LoongForgeError

__all__ = ["message_of", "print_table"]

LONGEST = 2000
"""Of a line of a message: what was given may be anything."""
MOST_ISSUES = 100
NARROWEST = 30
"""A column is not folded into less."""


def message_of(error: LoongForgeError, *, debug: bool) -> str:
    """Without its traceback, unless that was asked for."""
    if debug:
        return "".join(traceback.format_exception(error)).rstrip()
    if isinstance(error, ConfigError) and len(error.issues) > 1:
        more = len(error.issues) - MOST_ISSUES
        shown = [f"{len(error.issues)} errors:", *(f"  {abridged(str(issue))}" for issue in error.issues[:MOST_ISSUES])]
        return "\n".join([*shown, *([f"  and {more} more"] if more > 0 else [])])
    return "\n".join(map(abridged, f"error: {error}".split("\n")))


def abridged(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 4 :]}"


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
