"""How the faulty projector fails."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from loongforge_projectors.mlp.model import MlpProjector
from torch import distributed

from loongforge_core.errors import DataError
from loongforge_core.layers.interfaces import Features


class FaultyProjector(MlpProjector):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.passes = 0

    def forward(self, features: Features) -> Features:
        self.passes += 1
        if self.passes == self.config.at_pass:  # type: ignore[attr-defined]
            rank = distributed.get_rank()
            if self.config.fault == "waits":  # type: ignore[attr-defined]
                write_process_id(Path(self.config.folder) / str(rank))  # type: ignore[attr-defined]
                time.sleep(self.config.wait_s)  # type: ignore[attr-defined]
            elif rank == self.config.on_rank:  # type: ignore[attr-defined]
                fail(self.config.fault)  # type: ignore[attr-defined]
        return super().forward(features)


def write_process_id(path: Path) -> None:
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)


def fail(fault: str) -> None:
    if fault == "raises":
        raise ZeroDivisionError("the planted fault")
    if fault == "data":
        raise DataError("line 3 is no good")
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "exits":
        os._exit(7)
    if fault == "crashes":
        ctypes.string_at(0)
