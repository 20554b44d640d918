"""A run begun with the older Megatron-Core goes on with the newer one, in another layout too; the other way is refused with the reason."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import distributed

from loongforge_core.config.check import load_composition
from loongforge_core.config.composition import Composition
from loongforge_core.errors import LoongForgeError
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import fork_here, run_ranks
from loongforge_core.registry import Registry
from loongforge_core.train.loop import train
from loongforge_core.train.progress import Progress
from loongforge_core.train.step import Trainer

Compose = Callable[..., Composition]

NEWER = next(iter(sorted(Path(__file__).parents[2].glob(".megatron-0.19*"))), None)

needs_newer = pytest.mark.skipif(
    NEWER is None and "EXPECT_MEGATRON" not in os.environ,  # where `make test` says what it expects, nothing is skipped
    reason="no newer Megatron-Core beside the environment (`make test` puts it there)",
)

# ---- in a process with one of the versions


def run_until(config: str, stop: int) -> str:
    """On a rank: brings a run to so many steps; what is said of an error."""
    registry, step = Registry.discover(), Trainer.step
    composition = load_composition(config, registry=registry, world_size=distributed.get_world_size())
    initialise_groups(composition.run.parallel, seed=composition.run.train.seed)

    def stop_after_steps(self: Trainer, batches: Any) -> Any:
        if self.scheduler.num_steps == stop:
            raise KeyboardInterrupt
        return step(self, batches)

    Trainer.step = stop_after_steps  # type: ignore[method-assign]
    try:
        train(composition, registry, progress=Progress(steps=8, log_interval=8, stream=io.StringIO()))
    except KeyboardInterrupt:
        pass
    except LoongForgeError as error:
        return str(error)
    return ""


def older(config: Path, stop: int, world_size: int) -> str:
    """What ranks of this process's Megatron-Core say."""
    import megatron.core

    assert megatron.core.__version__.startswith("0.16"), megatron.core.__version__
    return "".join(run_ranks(run_until, world_size, str(config), stop))


def run_newer(*runs: str) -> None:
    """Runs given as configuration, number of steps and of ranks, one after another: in a process that has the newer one."""
    import megatron.core

    assert megatron.core.__version__.startswith("0.19"), megatron.core.__version__
    for config, stop, world_size in zip(runs[::3], map(int, runs[1::3]), map(int, runs[2::3]), strict=True):
        print("".join(fork_here(partial(run_until, config, stop), world_size)), end="")


START = """
import importlib.util, sys
sys.path[:] = {path!r}
spec = importlib.util.spec_from_file_location("test_versions", {file!r})
sys.modules["test_versions"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.run_newer(*sys.argv[1:])
"""


def newer(*runs: tuple[Path, int, int]) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    arguments = [str(part) for each in runs for part in each]
    start = START.format(path=[str(NEWER), *sys.path], file=__file__)
    found = subprocess.run([sys.executable, "-c", start, *arguments], capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr
    return found.stdout


# ---- the test


@needs_newer
def test_a_checkpoint_travels_to_the_newer_version_only(compose: Compose, tmp_path: Path) -> None:
    """Begun by two data-parallel ranks with a distributed optimizer, and gone on with by two tensor-parallel ones with a whole one."""
    assert NEWER is not None, "no .megatron-0.19* in the checkout; `make test` installs it there"

    def configured(name: str, output: str, **parallel: Any) -> Path:
        config = tmp_path / f"{name}.yaml"
        resolved = dict(compose("train.save_interval=1", "train.micro_batch_size=4", f"output_dir={tmp_path / output}").resolved)
        config.write_text(yaml.safe_dump({**resolved, "parallel": {**resolved["parallel"], **parallel}}))
        return config

    whole, back = configured("whole", "whole"), configured("back", "back")
    begun = configured("begun", "forth", use_distributed_optimizer=True)
    gone_on = configured("gone_on", "forth", tensor_model_parallel_size=2)
    assert older(whole, 8, 1) == older(begun, 3, 2) == ""
    assert newer((gone_on, 8, 2), (back, 3, 1)) == ""
    one, two = ([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("whole", "forth"))
    assert [line["step"] for line in one] == [line["step"] for line in two] == list(range(1, 9))
    for ours, theirs in zip(one, two, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)  # I1
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert "install megatron-core>=0.19" in older(back, 8, 1)
