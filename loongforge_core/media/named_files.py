"""Files that data names: within its folder or by an absolute path. Nothing is fetched, and nothing opened that may have no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from loongforge_core.errors import DataError

__all__ = ["named_file", "refuse_device"]


def named_file(name: str, folder: Path) -> Path:
    """What `name` means in a data file of `folder`. Raises DataError for what is no path, or a relative one that leaves `folder`."""
    if "://" in name or name.startswith("data:") or "\0" in name:
        raise DataError(f"{shown(name)} is no path of a file: nothing is fetched, or decoded from it")
    if not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] == os.pardir:
        raise DataError(f"{shown(name)} leaves the data file's folder, {folder}; what lies elsewhere on this machine has an absolute path")
    return folder / name


def refuse_device(path: Path) -> None:
    """What is no file may have no end, or wait for one: `/dev/zero`, a named pipe. Whether it is there at all, who opens it says."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{path} is neither a file nor a folder, but a device, a pipe or the like")


def shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:77]}...")
