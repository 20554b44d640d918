"""A run of one or two processes, killed at twenty instants, saving included, gives the metrics of one that never was (I4)."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import distributed

from loongforge_core.config.composition import Composition
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import RankError, run_ranks
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint import checkpoints
from loongforge_core.train.loop import train
from loongforge_core.train.progress import Progress

Compose = Callable[..., Composition]
Event = Literal["started", "saving", "metrics"]

STEPS = 20
SEED = 0
TIMES = ("step_time_s", "tokens_per_s")
EVENTS: dict[Event, tuple[int, float]] = {"started": (4, 0.8), "metrics": (4, 0.05), "saving": (12, 0.1)}
"""How many of the instants come after each, and within how many seconds: a checkpoint takes about 0.1 s."""


@dataclass(frozen=True)
class Instant:
    """So many seconds after a rank has started, or after the run has begun to save, or written metrics, for the n-th time."""

    event: Event
    count: int
    """Of the event since the start."""
    delay_s: float
    rank: int
    """Whose process is killed; the launcher then ends the others."""


def instants(world_size: int) -> list[Instant]:
    draw = random.Random(SEED)
    events = [(event, longest) for event, (count, longest) in EVENTS.items() for _ in range(count)]
    draw.shuffle(events)
    return [Instant(event, draw.randint(1, 2), draw.uniform(0, longest), draw.randrange(world_size)) for event, longest in events]


# ---- on a rank


def run(composition: Composition, instant: Instant | None) -> None:
    if instant and instant.rank == distributed.get_rank():
        die_at(instant, Path(composition.run.output_dir))
    initialise_groups(composition.run.parallel, seed=composition.run.train.seed)
    train(composition, Registry.discover(), progress=Progress(steps=STEPS, log_interval=STEPS, stream=io.StringIO()))


def die_at(instant: Instant, output_dir: Path) -> None:
    """Leaves a process behind that kills this one from outside, whatever it is doing then."""
    victim = os.getpid()
    if os.fork():
        return
    try:
        for _ in range(instant.count if instant.event != "started" else 0):
            wait_for(instant.event, output_dir)
        time.sleep(instant.delay_s)
        os.kill(victim, signal.SIGKILL)
    finally:
        os._exit(0)


def wait_for(event: Event, output_dir: Path) -> None:
    """Until a folder appears that was not there, or a file grows."""
    before = progress_of(event, output_dir)
    while (now := progress_of(event, output_dir)) <= before:
        before = now
        time.sleep(0.0005)


def progress_of(event: Event, output_dir: Path) -> int:
    if event == "saving":
        return len(list((output_dir / "checkpoints").glob(".writing_*")))
    path = output_dir / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


# ---- compared


@dataclass(frozen=True)
class Run:
    composition: Composition

    @property
    def output_dir(self) -> Path:
        return Path(self.composition.run.output_dir)

    def metrics(self) -> list[dict[str, Any]]:
        """Without the times, which no two runs share."""
        lines = [json.loads(line) for line in (self.output_dir / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]

    def unfinished(self) -> list[Path]:
        return list((self.output_dir / "checkpoints").glob(".*"))


@pytest.fixture
def make_run(compose: Compose, tmp_path: Path) -> Callable[..., Run]:
    """A run that saves at every step."""

    def make_run(name: str, *overrides: str) -> Run:
        settings = (f"train.steps={STEPS}", "train.save_interval=1", "train.micro_batch_size=4", *overrides)
        return Run(compose(*settings, f"output_dir={tmp_path / name}"))

    return make_run


@pytest.mark.parametrize(
    ("world_size", "overrides"),
    [
        (1, ("train.precision=bf16",)),
        (2, ("parallel.use_distributed_optimizer=true", "parallel.overlap_grad_reduce=true", "parallel.overlap_param_gather=true")),
    ],
)
def test_a_run_killed_at_twenty_instants_gives_the_same_metrics(
    make_run: Callable[..., Run], world_size: int, overrides: tuple[str, ...]
) -> None:
    whole, killed = make_run("whole", *overrides), make_run("killed", *overrides)
    run_ranks(run, world_size, whole.composition, None)
    while_saving = 0
    for instant in instants(world_size):
        with pytest.raises(RankError, match="status -9"):
            run_ranks(run, world_size, killed.composition, instant)
        while_saving += len(killed.unfinished())
    assert while_saving >= 3, "hardly any of the instants was within saving any more"
    run_ranks(run, world_size, killed.composition, None)
    assert killed.metrics() == whole.metrics() and len(whole.metrics()) == STEPS
    assert list(checkpoints(killed.output_dir)) == list(range(1, STEPS + 1)) and not killed.unfinished()
