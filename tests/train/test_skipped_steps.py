"""A run counts the steps that it skips and goes on; of too many in a row it says which, why, and of which samples, also when resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from runs import lines_of, quiet

from loongforge_core.config.composition import Composition
from loongforge_core.errors import LoongForgeError
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import Batch
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint.folders import checkpoints
from loongforge_core.train.loop import train
from loongforge_core.train.result import NotFinite, StepResult
from loongforge_core.train.skipped_steps import SkippedSteps
from loongforge_core.train.step import Trainer

Compose = Callable[..., Composition]

pytestmark = pytest.mark.usefixtures("one_process")


def with_an_infinite_item(batch: Batch) -> Batch:
    """Its first image, which is that of the first sample that has one, is not finite."""
    items = batch.items["image"]
    pixels = items.inputs["pixel_values"].clone()
    pixels[0] = math.inf
    return replace(batch, items={"image": Items({"pixel_values": pixels}, items.sizes)})


@contextmanager
def infinite(steps: Collection[int], *, stop_before: int = 0) -> Iterator[None]:
    """In these steps, counted from 1, one image is infinite; the run is interrupted before step `stop_before`."""
    own = Trainer.step

    def step(self: Trainer, batches: Sequence[Batch]) -> StepResult:
        number = self.scheduler.num_steps + 1
        if number == stop_before:
            raise KeyboardInterrupt
        return own(self, [with_an_infinite_item(batch) for batch in batches] if number in steps else batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        yield


def test_a_run_skips_counts_and_goes_on(compose: Compose, registry: Registry) -> None:
    """Interrupted behind a checkpoint that lies between two skipped steps, and resumed, it has the metrics of one that was not."""
    whole = compose("train.save_interval=3", "output_dir=" + str(Path(compose().run.output_dir).with_name("whole")))
    with infinite({3, 4}):
        train(whole, registry, progress=(progress := quiet()))
    lines = lines_of(whole.run.output_dir)
    assert [line["step"] for line in lines if line["skipped"]] == [3, 4] and len(lines) == 8
    skipped = lines[2]
    assert skipped["loss"] is skipped["grad_norm"] is None and skipped["loss_by_content"]["text_only"] > 0
    assert skipped["skipped"]["what"] == "the loss is nan"
    (name,) = skipped["skipped"]["samples"]
    path, _, number = name.rpartition(":")
    assert json.loads(Path(path).read_text().splitlines()[int(number) - 1])["images"]
    said = progress.stream.getvalue()  # type: ignore[attr-defined]
    assert f"step 3: the loss is nan; that of these samples is not finite: {name}; skipped" in said
    assert "2 of 8 steps were skipped" in said
    resumed = compose("train.save_interval=3")
    with infinite({3, 4}, stop_before=5), pytest.raises(KeyboardInterrupt):
        train(resumed, registry, progress=quiet())
    assert list(checkpoints(Path(resumed.run.output_dir))) == [3]
    with infinite({3, 4}):
        train(resumed, registry, progress=(progress := quiet()))
    assert lines_of(resumed.run.output_dir) == lines
    assert "2 of 8 steps were skipped" in progress.stream.getvalue()  # type: ignore[attr-defined]


def test_too_many_in_a_row_end_the_run_whenever_it_is_resumed(compose: Compose, registry: Registry) -> None:
    """From a checkpoint at which two of the three were skipped already; with a larger limit the same run goes past them."""
    settings = ("train.save_interval=2", "train.max_skipped_steps=2")
    messages = []
    for _ in range(2):
        with infinite({3, 4, 5}), pytest.raises(LoongForgeError, match=r"3 steps in a row, more than train\.max_skipped_steps") as caught:
            train(compose(*settings), registry, progress=quiet())
        messages.append(str(caught.value))
        assert list(checkpoints(Path(compose().run.output_dir))) == [2, 4]
    assert messages[0] == messages[1]
    for step, line in zip((3, 4, 5), lines_of(compose().run.output_dir)[2:], strict=True):
        assert f"step {step}: the loss is nan; that of these samples is not finite: {line['skipped']['samples'][0]}\n" in messages[0]
    with infinite({3, 4, 5}):
        train(compose("train.save_interval=2", "train.max_skipped_steps=3"), registry, progress=quiet())
    assert [line["step"] for line in lines_of(compose().run.output_dir) if line["skipped"]] == [3, 4, 5]


def test_what_counts_as_in_a_row() -> None:
    taken = StepResult(1.0, {}, None, 1.0, {}, 0.0, tokens=5, samples=1)
    no_target = replace(taken, loss=None, tokens=0)
    wrong = replace(taken, loss=None, not_finite=NotFinite("the loss is inf", tuple(f"a:{n}" for n in range(30)), loss_is_finite=False))
    steps = SkippedSteps()
    for number, result in enumerate((wrong, wrong, taken, wrong, no_target, wrong), start=1):
        steps.count(number, result)
    assert (steps.total, [said.split(":")[0] for said in steps.in_a_row]) == (4, ["step 4", "step 6"])
    assert "a:19 and 10 more" in steps.in_a_row[0] and "a:20" not in steps.in_a_row[0]
    again = SkippedSteps.from_record(json.loads(json.dumps(steps.to_record())))
    assert again == steps
    steps.require_few(2)
    with pytest.raises(LoongForgeError, match=r"2 steps in a row, more than train\.max_skipped_steps \(1\)"):
        steps.require_few(1)
    with pytest.raises(LoongForgeError, match=r"^a step was skipped"):
        first = SkippedSteps()
        first.count(1, wrong)
        first.require_few(0)
