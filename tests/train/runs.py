"""What tests of runs share: a run that says nothing, what it wrote, and a trainer without a run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from loongforge_core.config.composition import Composition
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry
from loongforge_core.train.progress import Progress
from loongforge_core.train.step import Trainer, build_trainer

TIMES = ("seconds", "step_time_s", "tokens_per_s")


def quiet(steps: int = 8) -> Progress:
    """Progress whose `stream` keeps what would be said."""
    return Progress(steps=steps, log_interval=4, stream=io.StringIO())


def lines_of(output_dir: str | Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """What a run wrote, without the times, which no two runs share."""
    text = (Path(output_dir) / name).read_text()
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def trainer_of(composition: Composition, registry: Registry) -> Trainer:
    return build_trainer(composition, [OmniModelProvider(composition=composition, registry=registry)()])
