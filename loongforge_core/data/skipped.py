"""A line that could not be used, where `data.on_error` is `skip`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loongforge_core.errors import DataError

__all__ = ["SkippedLine"]


@dataclass(frozen=True)
class SkippedLine:
    """The line, and what is wrong with it."""

    file: str
    line: int
    reason: str

    @classmethod
    def of(cls, file: Path, line: int, error: DataError) -> SkippedLine:
        """The reason is the error, without the name of the line at its beginning."""
        return cls(str(file), line, str(error).removeprefix(f"{file}:{line}: "))
