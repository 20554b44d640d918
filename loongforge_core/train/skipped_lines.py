"""`skipped_lines.jsonl`: the lines of data files that could not be used, each once, with what is wrong with it and the step that met it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from loongforge_core.data.skipped import SkippedLine
from loongforge_core.parallel.groups import local_device
from loongforge_core.train.metrics import cut

__all__ = ["SKIPPED_LINES_FILE", "SkippedLines", "all_skipped"]

SKIPPED_LINES_FILE = "skipped_lines.jsonl"


class SkippedLines:
    """The first rank has it. Goes on after `first_step` steps; what later ones met is cut off, and they meet it again."""

    def __init__(self, output_dir: Path, *, first_step: int) -> None:
        self.path = output_dir / SKIPPED_LINES_FILE
        self._known: set[tuple[str, int]] = set()
        if self.path.exists():
            cut(self.path, first_step)
            for text in self.path.read_text(encoding="utf-8").splitlines():
                self._known.add(key_of(json.loads(text)))

    def __len__(self) -> int:
        return len(self._known)

    def add(self, step: int, skipped: Sequence[SkippedLine]) -> None:
        """On disk when it returns, so that a checkpoint that is saved next never knows of more. `step` counts from 1."""
        new = {key: line for line in skipped if (key := key_of(asdict(line))) not in self._known}
        if not new:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for line in new.values():
                file.write(json.dumps({"step": step, **asdict(line)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._known |= new.keys()


def key_of(line: dict[str, Any]) -> tuple[str, int]:
    return line["file"], line["line"]


def all_skipped(ours: Sequence[SkippedLine], group: distributed.ProcessGroup) -> list[SkippedLine]:
    """Those of all data-parallel ranks, in the order of their samples, on every rank. Where there is none, ranks exchange one number."""
    if group.size() == 1:
        return list(ours)
    count = torch.tensor(len(ours), device=local_device())
    distributed.all_reduce(count, group=group)
    if not count:
        return []
    shares: list[list[SkippedLine]] = [[]] * group.size()
    distributed.all_gather_object(shares, list(ours), group=group)
    return [line for share in shares for line in share]
