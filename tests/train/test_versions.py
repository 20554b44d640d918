"""A run begun with the older Megatron-Core goes on with the newer one; the other way is refused with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from loongforge_core.config.composition import Composition

Compose = Callable[..., Composition]

NEWER = next(iter(sorted(Path(__file__).parents[2].glob(".megatron-0.19*"))), None)

pytestmark = pytest.mark.skipif(
    NEWER is None and "EXPECT_MEGATRON" not in os.environ,  # where `make test` says what it expects, nothing is skipped
    reason="no newer Megatron-Core beside the environment (`make test` puts it there)",
)

RUN = """
import io, sys
import megatron.core
import torch
from loongforge_core.config.check import load_composition
from loongforge_core.errors import LoongForgeError
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry import Registry
from loongforge_core.train.loop import train
from loongforge_core.train.progress import Progress
from loongforge_core.train.step import Trainer

assert (megatron.core.__version__ >= "0.19") is newer, megatron.core.__version__
torch.set_num_threads(1)
registry, step = Registry.discover(), Trainer.step

def stop_after_steps(self, batches):
    if self.scheduler.num_steps == stop:
        raise KeyboardInterrupt
    return step(self, batches)

Trainer.step = stop_after_steps
for config, stop in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
    with single_process():
        try:
            train(load_composition(config, registry=registry), registry, progress=Progress(steps=8, log_interval=8, stream=io.StringIO()))
        except KeyboardInterrupt:
            pass
        except LoongForgeError as error:
            print(error)
"""


def run(megatron: Path | None, *runs: tuple[Path, int]) -> str:
    """Brings runs to so many steps; what is said of an error."""
    first = [str(megatron)] if megatron else []
    rest = [path for path in sys.path if ".megatron-" not in path]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = f"import sys; sys.path[:] = {[*first, *rest]!r}; newer = {megatron is not None}\n{RUN}"
    found = subprocess.run(
        [sys.executable, "-c", code, *(str(part) for each in runs for part in each)], capture_output=True, text=True, env=environment
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_checkpoint_travels_to_the_newer_version_only(compose: Compose, tmp_path: Path) -> None:
    assert NEWER is not None, "no .megatron-0.19* in the checkout; `make test` installs it there"
    outputs = [tmp_path / name for name in ("whole", "forth", "back")]
    configs = [output.with_suffix(".yaml") for output in outputs]
    for config, output in zip(configs, outputs, strict=True):
        config.write_text(yaml.safe_dump(dict(compose("train.save_interval=1", f"output_dir={output}").resolved)))
    whole, forth, back = configs
    assert run(None, (whole, 8), (forth, 3)) == run(NEWER, (forth, 8), (back, 3)) == ""
    one, two = ([json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()] for output in outputs[:2])
    assert [line["step"] for line in one] == [line["step"] for line in two] == list(range(1, 9))
    for ours, theirs in zip(one, two, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)  # I1
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert "install megatron-core>=0.19" in run(None, (back, 8))
