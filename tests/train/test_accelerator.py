"""The same run on an accelerator and on this machine's CPU gives the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from loongforge_core.config.composition import Composition

Compose = Callable[..., Composition]

# Megatron runs either with the accelerator or without one in a process (`parallel/cpu.py`), so each of the runs has its own.
RUN = """
import io, torch
assert torch.cuda.is_available() is accelerated
from loongforge_core.config.check import load_composition
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry import Registry
from loongforge_core.train.loop import train
from loongforge_core.train.progress import Progress

torch.set_num_threads(1)
registry = Registry.discover()
with single_process():
    train(load_composition(config, registry=registry), registry, progress=Progress(steps=3, log_interval=3, stream=io.StringIO()))
"""


def metrics_of_a_run(composition: Composition, output: Path, *, accelerated: bool) -> list[dict[str, float]]:
    """One dictionary a step, from a process that sees the accelerator or does not."""
    config = output.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({**composition.resolved, "output_dir": str(output)}))
    environment = {**os.environ} if accelerated else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    code = f"import sys; sys.path[:] = {sys.path!r}; config, accelerated = {str(config)!r}, {accelerated}\n{RUN}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")
def test_three_steps_equal_the_cpus(compose: Compose, tmp_path: Path) -> None:
    """The loss is of the weights before the step, so the second and third also tell of gradients and optimizer."""
    composition = compose("train.steps=3")
    here, there = (metrics_of_a_run(composition, tmp_path / str(which), accelerated=which) for which in (False, True))
    for step, (cpu, gpu) in enumerate(zip(here, there, strict=True)):
        assert gpu["tokens"] == cpu["tokens"]
        # fp32, summed in another order. AdamW divides by the gradient's size: noise in small gradients grows from step to step.
        rtol = 1e-4 if step == 0 else 1e-2
        assert gpu["loss"] == pytest.approx(cpu["loss"], rel=rtol)
        assert gpu["grad_norm"] == pytest.approx(cpu["grad_norm"], rel=10 * rtol)
