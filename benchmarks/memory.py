"""How much memory work needs at its peak, beyond what the process had before (Linux)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["peak_growth"]


def peak_growth(work: Callable[[], object]) -> int:
    """Bytes. Pages of mapped files count as well as the process's own."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
