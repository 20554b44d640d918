"""A run of one or two processes, killed again and again, saving included, loses no more than the steps since its last save, and gives the
metrics of one that never was (I4). Twenty times; `make test-crash` does it two hundred times.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import distributed

from loongforge_core.config.composition import Composition
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import RankError, run_ranks
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint.folders import checkpoints
from loongforge_core.train.loop import train
from loongforge_core.train.progress import Progress

Compose = Callable[..., Composition]
Event = Literal["started", "saving", "metrics"]

SEED = 0
TIMES = ("step_time_s", "tokens_per_s")
EVENTS: dict[Event, tuple[int, float]] = {"started": (1, 0.8), "metrics": (1, 0.05), "saving": (3, 0.1)}
"""How many of five instants come after each, and within how many seconds: a checkpoint takes about 0.1 s."""


@dataclass(frozen=True)
class Instant:
    """So many seconds after a rank has started, or after the run has begun to save, or written metrics, for the n-th time."""

    event: Event
    count: int
    """Of the event since the start."""
    delay_s: float
    rank: int
    """Whose process is killed; the launcher then ends the others."""


def instants(number: int, world_size: int) -> list[Instant]:
    draw = random.Random(SEED)
    five = [(event, longest) for event, (count, longest) in EVENTS.items() for _ in range(count)]
    events = five * (number // len(five))
    draw.shuffle(events)
    return [Instant(event, draw.randint(1, 2), draw.uniform(0, longest), draw.randrange(world_size)) for event, longest in events]


# ---- on a rank


def run(composition: Composition, instant: Instant | None, classes: Sequence[type]) -> None:
    """`classes` are there to be pickled: the server that ranks are forked from loads their modules, once for all."""
    settings = composition.run.train
    if instant and instant.rank == distributed.get_rank():
        die_at(instant, Path(composition.run.output_dir))
    initialise_groups(composition.run.parallel, seed=settings.seed)
    train(composition, Registry.discover(), progress=Progress(steps=settings.steps, log_interval=settings.steps, stream=io.StringIO()))


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
    classes: Sequence[type]

    @property
    def output_dir(self) -> Path:
        return Path(self.composition.run.output_dir)

    def metrics(self) -> list[dict[str, Any]]:
        """Without the times, which no two runs share."""
        lines = [json.loads(line) for line in (self.output_dir / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]

    def done(self) -> int:
        """Steps, as far as metrics tell; the line of a step that was not finished may be broken."""
        path = self.output_dir / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def saved(self) -> int:
        return max(checkpoints(self.output_dir), default=0)

    def unfinished(self) -> list[Path]:
        return list((self.output_dir / "checkpoints").glob(".writing_step_*"))


@pytest.fixture
def make_run(compose: Compose, registry: Registry, tmp_path: Path) -> Callable[..., Run]:
    """A run of the smallest model, most of whose time goes into saving."""
    model = ("model.image_encoder.num_layers=1", "model.foundation.num_layers=1", "train.micro_batch_size=4")

    def make_run(name: str, *overrides: str) -> Run:
        composition = compose(*model, *overrides, f"output_dir={tmp_path / name}")
        specs = [slot.spec for slot in composition.slots.values()]
        classes = [registry.load(spec, part) for spec in specs for part in ("model", "processor") if getattr(spec, part)]
        return Run(composition, classes)

    return make_run


def kill_again_and_again(killed: Run, number: int, world_size: int) -> int:
    """The run is to be finished then; how often it was killed while it was saving."""
    while_saving, interval = 0, killed.composition.run.train.save_interval
    for index, instant in enumerate(instants(number, world_size)):
        before = killed.saved()
        with pytest.raises(RankError, match="status -9"):
            run_ranks(run, world_size, killed.composition, instant, killed.classes)
        saved, done = killed.saved(), killed.done()
        # Metrics of a step are there before its checkpoint is.
        assert saved >= before and saved in (done // interval * interval, (done - 1) // interval * interval), (index, instant)
        while_saving += len(killed.unfinished())
    return while_saving


OVERLAPPED = ("parallel.use_distributed_optimizer=true", "parallel.overlap_grad_reduce=true", "parallel.overlap_param_gather=true")


@pytest.mark.parametrize(
    ("world_size", "share", "overrides"),
    [(1, 4, ("train.precision=bf16", "train.save_interval=2")), (2, 1, ("train.save_interval=1", *OVERLAPPED))],
)
def test_a_run_killed_again_and_again_loses_no_more_than_the_steps_since_the_last_save(
    make_run: Callable[..., Run], pytestconfig: pytest.Config, world_size: int, share: int, overrides: tuple[str, ...]
) -> None:
    number: int = pytestconfig.getoption("kills") // share
    steps = 2 * number if share > 1 else number  # more than the run comes to before it was killed for the last time
    whole = make_run("whole", *overrides, f"train.steps={steps}", "train.save_interval=0")
    killed = make_run("killed", *overrides, f"train.steps={steps}")
    run_ranks(run, world_size, whole.composition, None, whole.classes)
    while_saving = kill_again_and_again(killed, number, world_size)
    assert while_saving >= number // 7, "hardly any of the instants was within saving any more"
    run_ranks(run, world_size, killed.composition, None, killed.classes)
    assert killed.metrics() == whole.metrics() and len(whole.metrics()) == steps
    interval = killed.composition.run.train.save_interval
    assert list(checkpoints(killed.output_dir)) == list(range(interval, steps + 1, interval)) and not killed.unfinished()
