"""Runs on an accelerator and on this machine's CPU give the same numbers, and each goes on from what the other has written.

All commands of one side are one process, twice: those of the second time begin with what the other side made in the first.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from compositions import Triple, pairs
from questions import written

from loongforge_core.registry import Registry


def has_accelerator() -> bool:
    """Asked of the driver, because `conftest.py` hides accelerators from torch in this process."""
    try:
        return bool(ctypes.CDLL("libnvidia-ml.so.1").nvmlInit_v2() == 0)
    except OSError:
        return False


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_accelerator(), reason="no accelerator here")]

CPU, GPU = "cpu", "gpu"
ACCELERATED = {CPU: False, GPU: True}
MIDDLE, END = 2, 4
"""The steps at which the run that is continued has a checkpoint."""
VARIANTS: Mapping[str, Sequence[str]] = {
    "packed": ["data.packing=true"],
    "recomputed": ["train.recompute=full"],
    "distributed": ["parallel.use_distributed_optimizer=true"],
}
WITH_LEVELS = Triple("qwen3_vl", "patch_merger", "qwen3")


@dataclass
class Sides:
    """What both sides were told to do, and what became of it."""

    folder: Path
    errors: dict[tuple[str, str], str] = field(default_factory=dict)

    def output(self, side: str, name: str) -> Path:
        """Where a command of this name wrote. Fails where it did not end well."""
        assert not (error := self.errors[side, name]), f"{name} on the {side}: {error}"
        return self.folder / side / name

    def metrics(self, side: str, name: str, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """One dictionary a step."""
        return lines_of(self.output(side, name) / file)

    def train(self, side: str, triple: Triple, name: str, *overrides: str, steps: int = 3) -> dict[str, list[str]]:
        output = f"output_dir={self.folder / side / name}"
        return {name: ["train", str(self.config(triple)), output, f"train.steps={steps}", *overrides]}

    def config(self, triple: Triple) -> Path:
        return self.folder / f"{triple}.yaml"

    def run(self, commands: Mapping[str, Mapping[str, list[str]]]) -> None:
        """The commands of both sides by name, side by side."""
        processes, results = {}, {}
        for side, own in commands.items():
            path = self.folder / f"{side}_{len(self.errors)}.json"
            path.write_text(json.dumps({"accelerated": ACCELERATED[side], "commands": own}))
            results[side] = path.with_suffix(".results.json")
            code = f"import sys, runpy; sys.path[:] = {sys.path!r}; sys.argv[1:] = [{str(path)!r}]; "
            code += f"runpy.run_path({str(Path(__file__).with_name('one_side.py'))!r}, run_name='__main__')"
            environment = accelerated() if ACCELERATED[side] else None
            processes[side] = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
        for side, process in processes.items():
            said = process.communicate()[1]
            assert process.returncode == 0, said
            self.errors |= {(side, name): error for name, error in json.loads(results[side].read_text()).items()}


def accelerated() -> dict[str, str]:
    """This process's environment as it was before `conftest.py` hid the accelerators."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    hidden = environment.pop("HIDDEN_FROM_TESTS")
    return environment if hidden == "nothing was set" else {**environment, "CUDA_VISIBLE_DEVICES": hidden}


@pytest.fixture(scope="module")
def sides(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    sides = Sides(tmp_path_factory.mktemp("sides"))
    for triple in dict.fromkeys([*pairs(registry), WITH_LEVELS]):
        (data := sides.folder / f"data_{triple}").mkdir()
        sides.config(triple).write_text(yaml.safe_dump(dict(written(triple, registry, data).resolved)))
    sides.run({side: training(sides, side, pairs(registry)) for side in (CPU, GPU)})
    for side, other in ((CPU, GPU), (GPU, CPU)):
        name = f"checkpoints/step_{MIDDLE:08}"
        if not sides.errors[other, "long"]:
            shutil.copytree(sides.output(other, "long") / name, sides.folder / side / "continued" / name)
    sides.run({CPU: going_on(sides, CPU), GPU: {**going_on(sides, GPU), **exchanging(sides)}})
    return sides


def training(sides: Sides, side: str, triples: Sequence[Triple]) -> dict[str, list[str]]:
    commands = sides.train(side, WITH_LEVELS, "long", f"train.save_interval={MIDDLE}", steps=END)
    for triple in triples:
        commands |= sides.train(side, triple, str(triple))
    for name, overrides in VARIANTS.items():
        commands |= sides.train(side, WITH_LEVELS, name, *overrides)
    if side == GPU:
        for triple in triples:
            commands |= sides.train(side, triple, f"{triple} bf16", "train.precision=bf16")
        commands |= sides.train(side, WITH_LEVELS, "all bf16", "train.precision=bf16", *chain(*VARIANTS.values()))
    return commands


def going_on(sides: Sides, side: str) -> dict[str, list[str]]:
    """With the other side's checkpoint, from the middle to the end; and answers, both with the same weights."""
    config, weights = str(sides.config(WITH_LEVELS)), str(sides.folder / CPU / "long")
    answering = [f"--checkpoint={weights}", f"--questions={questions_of(sides)}"]
    held_out = [f"data.eval_path={questions_of(sides)}", "train.eval_interval=1", "evaluation.max_new_tokens=4"]
    return {
        **sides.train(side, WITH_LEVELS, "continued", f"train.save_interval={MIDDLE}", steps=END),
        **sides.train(side, WITH_LEVELS, "held out", *held_out),
        **sides.train(side, WITH_LEVELS, "overflowing", "train.lr=1e30", steps=8),
        "answers": ["evaluate", config, *answering, "evaluation.max_new_tokens=8", f"output_dir={sides.folder / side / 'answers'}"],
        "exported": ["export-hf", config, f"--checkpoint={weights}", f"--output={sides.folder / side / 'exported'}"],
    }


def questions_of(sides: Sides) -> Path:
    return sides.folder / f"data_{WITH_LEVELS}" / "train.jsonl"


def exchanging(sides: Sides) -> dict[str, list[str]]:
    """What the accelerator's export holds, read by the accelerator and written again."""
    config, folder = str(sides.config(WITH_LEVELS)), sides.folder / GPU
    return {
        "imported": ["import-hf", config, f"--folder={folder / 'exported'}", f"--output={folder / 'imported'}"],
        "exported again": ["export-hf", config, f"--checkpoint={folder / 'imported'}", f"--output={folder / 'exported again'}"],
    }


def check_equal(cpu: Sequence[Mapping[str, Any]], gpu: Sequence[Mapping[str, Any]]) -> None:
    """The loss is of the weights before the step, so later ones also tell of gradients and optimizer."""
    for step, (here, there) in enumerate(zip(cpu, gpu, strict=True)):
        assert there["tokens"] == here["tokens"]
        # fp32, summed in another order. AdamW divides by the gradient's size: noise in small gradients grows from step to step.
        rtol = 1e-4 if step == 0 else 1e-2
        assert there["loss"] == pytest.approx(here["loss"], rel=rtol)
        assert there["grad_norm"] == pytest.approx(here["grad_norm"], rel=10 * rtol)
        assert there["loss_by_content"] == pytest.approx(here["loss_by_content"], rel=rtol)
        assert there["grad_norm_by_slot"] == pytest.approx(here["grad_norm_by_slot"], rel=10 * rtol)


def check_near(fp32: Sequence[Mapping[str, Any]], bf16: Sequence[Mapping[str, Any]]) -> None:
    """bfloat16 has three digits, and an expert may be another."""
    for here, there in zip(fp32, bf16, strict=True):
        assert there["tokens"] == here["tokens"]
        assert there["loss"] == pytest.approx(here["loss"], rel=0.03)
        assert there["grad_norm"] == pytest.approx(here["grad_norm"], rel=0.3)
    assert [step["loss"] for step in fp32] != [step["loss"] for step in bf16], "not in bfloat16"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "triple" in metafunc.fixturenames:
        chosen = pairs(Registry.discover()) if has_accelerator() else [WITH_LEVELS]
        metafunc.parametrize("triple", chosen, ids=map(str, chosen))


def test_three_steps_equal_the_cpus(sides: Sides, triple: Triple) -> None:
    check_equal(sides.metrics(CPU, str(triple)), sides.metrics(GPU, str(triple)))


def test_three_steps_in_bfloat16_are_near_the_cpus_in_float32(sides: Sides, triple: Triple) -> None:
    check_near(sides.metrics(CPU, str(triple)), sides.metrics(GPU, f"{triple} bf16"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_packing_recomputation_and_the_distributed_optimizer_equal_the_cpus(sides: Sides, variant: str) -> None:
    check_equal(sides.metrics(CPU, variant), sides.metrics(GPU, variant))


def test_all_of_these_in_bfloat16_are_near_the_cpus_in_float32(sides: Sides) -> None:
    check_near(sides.metrics(CPU, "packed"), sides.metrics(GPU, "all bf16"))


@pytest.mark.parametrize(("side", "other"), [(CPU, GPU), (GPU, CPU)])
def test_a_checkpoint_of_the_other_side_is_continued_as_it_went_on_there(sides: Sides, side: str, other: str) -> None:
    whole, continued = sides.metrics(other, "long"), sides.metrics(side, "continued")
    assert [step["step"] for step in continued] == list(range(MIDDLE + 1, END + 1))
    check_equal(whole[MIDDLE:], continued)


def test_what_is_held_out_is_evaluated_as_on_the_cpu(sides: Sides) -> None:
    here, there = (sides.metrics(side, "held out", "evaluations.jsonl") for side in ACCELERATED)
    assert [row["step"] for row in there] == [row["step"] for row in here] == [1, 2, 3]
    assert [row["loss"] for row in there] == pytest.approx([row["loss"] for row in here], rel=1e-2)


def test_a_run_whose_weights_overflow_skips_and_stops_as_on_the_cpu(sides: Sides) -> None:
    said = [sides.errors[side, "overflowing"] for side in ACCELERATED]
    for error in said:
        assert "train.max_skipped_steps" in error and "train.jsonl:" in error
    here, there = (lines_of(sides.folder / side / "overflowing" / "metrics.jsonl") for side in ACCELERATED)
    assert [row["skipped"] is None for row in there] == [row["skipped"] is None for row in here] == [True, False, False, False, False]


def test_answers_are_the_cpus(sides: Sides) -> None:
    answers = {}
    for side in ACCELERATED:
        lines = (sides.output(side, "answers") / "evaluation_train" / "predictions.jsonl").read_text().splitlines()
        answers[side] = [json.loads(line)["answer"] for line in lines]
    assert answers[GPU] == answers[CPU]
    assert len(set(answers[CPU])) > 1, "one answer to every question tells little"


def test_an_export_is_the_cpus_and_is_imported_and_exported_again_bit_by_bit(sides: Sides) -> None:
    exported = files_of(sides.output(GPU, "exported"))
    assert any(name.endswith(".safetensors") for name in exported)
    assert exported == files_of(sides.output(CPU, "exported"))
    assert sides.output(GPU, "imported").is_dir()
    assert exported == files_of(sides.output(GPU, "exported again"))
