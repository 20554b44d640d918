"""Commands as processes of their own, with the faulty plugin installed beside the others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from installed import write_dist_info
from warm import Warm

FAULTS = Path(__file__).parent
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

T = TypeVar("T")


def install(folder: Path, *, version: str = "1.0") -> Path:
    """The faulty plugin, as pip leaves it, in a folder that goes on a process's path."""
    write_dist_info(folder, "faulty_plugin", version=version)
    return folder


def environment(site: Path, more: Mapping[str, Any] | None = None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHERS and not name.startswith("SLURM_")}
    path = os.pathsep.join([str(site), str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in (more or {}).items()}}


def start(site: Path, arguments: Sequence[str], *, more: Mapping[str, Any] | None = None, launcher: Sequence[str] | None = None) -> Any:
    """`loongforge` with these arguments, in a session of its own, as a terminal gives it; what it says comes through `communicate`.

    `launcher` are Python's arguments that start it: `-m`, or those of a launcher; None: forked from a process that is warm.
    """
    if launcher is None:
        return Warm(arguments, environment(site, more))
    program = [sys.executable, *launcher, "loongforge_core", *arguments]
    return subprocess.Popen(
        program, env=environment(site, more), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def until(read: Callable[[], T], wanted: Callable[[T], bool], timeout_s: float = 120) -> T:
    deadline = time.monotonic() + timeout_s
    while not wanted(found := read()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def is_running(process: int) -> bool:
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
