"""A run and what it leaves; killed at any instant, it goes on as if it never had been."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
from runs import lines_of, quiet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import distributed

from loongforge_core.config.check import load_composition
from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.errors import CheckpointError, LoongForgeError
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import RankError, run_ranks, single_process
from loongforge_core.registry import Registry
from loongforge_core.testing.layouts import Layout, trainer_in
from loongforge_core.train.checkpoint import save
from loongforge_core.train.checkpoint.folders import checkpoints
from loongforge_core.train.checkpoint.save import save_start
from loongforge_core.train.loop import train
from loongforge_core.train.metrics import Metrics, cut
from loongforge_core.train.step import Trainer
from loongforge_core.train.summary import trainable_table

Compose = Callable[..., Composition]

# ---- what a run leaves


@pytest.mark.usefixtures("one_process")
def test_a_run_leaves_metrics_settings_versions_and_checkpoints(compose: Compose, registry: Registry) -> None:
    composition = compose("train.save_interval=3")
    output, progress = Path(composition.run.output_dir), quiet()
    result = train(composition, registry, progress=progress)
    assert result.step == 8 and list(checkpoints(output)) == [3, 6, 8] and result.checkpoint.name == "step_00000008"
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    names = {"step", "loss", "loss_by_content", "router_loss", "grad_norm", "grad_norm_by_slot", "learning_rate", "tokens", "samples"}
    names |= {"skipped", "lines_skipped", "step_time_s", "tokens_per_s"}
    assert all(set(line) == names and line["step_time_s"] > 0 for line in lines)
    assert all(list(line["grad_norm_by_slot"]) == list(composition.slots) for line in lines)
    assert result.last is not None and lines[-1]["loss"] == result.last.loss
    board = EventAccumulator(str(output)).Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(1, 9))
    assert board.Scalars("loss")[7].value == pytest.approx(result.last.loss)
    assert board.Scalars("loss_by_content/image")[7].value == pytest.approx(result.last.loss_by_content["image"])
    again = load_composition(str(output / "config.yaml"), registry=registry)
    assert again.slots == composition.slots and again.run == composition.run
    versions = json.loads((output / "plugins.json").read_text())
    assert versions["torch"] == torch.__version__ and any(line.startswith("loongforge_llm") for line in versions["plugins"])
    said = progress.stream.getvalue()  # type: ignore[attr-defined]
    assert "foundation" in said and "step 4/8  loss" in said and "step 8/8" in said and "step 5/8" not in said


@pytest.mark.usefixtures("one_process")
def test_a_run_keeps_as_many_checkpoints_as_asked(compose: Compose, registry: Registry) -> None:
    composition = compose("train.save_interval=1", "train.keep_checkpoints=2", "train.save_retain_interval=3")
    train(composition, registry, progress=quiet())
    folders = sorted(path.name for path in (Path(composition.run.output_dir) / "checkpoints").iterdir())
    assert folders == ["step_00000003", "step_00000006", "step_00000007", "step_00000008"]


@pytest.mark.usefixtures("one_process")
def test_a_finished_run_is_not_run_again(compose: Compose, registry: Registry) -> None:
    composition = compose()
    first = train(composition, registry, progress=quiet())
    before = {path: path.stat().st_mtime_ns for path in Path(composition.run.output_dir).rglob("*.distcp")}
    lines = lines_of(composition.run.output_dir)
    progress = quiet()
    second = train(composition, registry, progress=progress)
    assert "already finished: 8 steps" in progress.stream.getvalue()  # type: ignore[attr-defined]
    assert second.last is None and second.checkpoint == first.checkpoint and lines_of(composition.run.output_dir) == lines
    assert before == {path: path.stat().st_mtime_ns for path in Path(composition.run.output_dir).rglob("*.distcp")}
    assert all(map(torch.equal, first.models[0].parameters(), second.models[0].parameters()))


@pytest.mark.usefixtures("one_process")
def test_a_run_of_another_model_or_with_other_settings_is_refused(compose: Compose, registry: Registry) -> None:
    train(compose(), registry, progress=quiet())
    with pytest.raises(CheckpointError, match=r"another model:\n  model\.foundation\.num_layers"):
        train(compose("model.foundation.num_layers=1", "train.steps=9"), registry, progress=quiet())
    with pytest.raises(CheckpointError, match=r"train\.lr: the checkpoint has 0\.004, this run has 0\.001"):
        train(compose("train.lr=1e-3"), registry, progress=quiet())


@pytest.mark.usefixtures("one_process")
def test_a_checkpoint_of_step_0_is_where_a_run_begins(compose: Compose, registry: Registry) -> None:
    composition = compose("train.lr=1e-30")  # as good as nothing
    start = OmniModelProvider(composition=compose("train.seed=3"), registry=registry)()
    save_start(Path(composition.run.output_dir), [start], composition, ())
    result = train(composition, registry, progress=quiet())
    assert result.step == 8
    for trained, begun in zip(result.models[0].parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(trained, begun, rtol=0, atol=1e-25)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("error", [KeyboardInterrupt, LoongForgeError])
def test_whatever_ends_a_run_early_leaves_the_last_checkpoint(
    compose: Compose, registry: Registry, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    whole = compose("train.save_interval=2", "output_dir=" + str(Path(compose().run.output_dir).with_name("whole")))
    train(whole, registry, progress=quiet())
    composition = compose("train.save_interval=2")
    output, step = Path(composition.run.output_dir), Trainer.step

    def step_or_stop(self: Trainer, batches: Any) -> Any:
        if self.scheduler.num_steps == 5:
            raise error
        return step(self, batches)

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(Trainer, "step", step_or_stop)
        train(composition, registry, progress=quiet())
    assert len(lines_of(output)) == 5 and list(checkpoints(output)) == [2, 4]
    train(composition, registry, progress=quiet())
    assert lines_of(output) == lines_of(whole.run.output_dir)
    board = EventAccumulator(str(output)).Reload()
    # A set: TensorBoard reads files in the order of their names, and of two that were begun within one second, numbered ".9" and ".10" say,
    # it takes the later one first, and then does not know that it replaces what is in the other.
    assert {event.step for event in board.Scalars("loss")} == set(range(1, 9))


def test_metrics_are_cut_after_the_checkpoint_and_at_a_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 6)]
    path.write_text("".join(lines) + '{"step": 6, "lo')
    cut(path, 5)
    assert path.read_text() == "".join(lines)
    cut(path, 3)
    assert path.read_text() == "".join(lines[:3])
    cut(path, 0)
    assert path.read_text() == ""


# ---- on several ranks


def table_in(composition: Composition, layout: Layout) -> str:
    trainer = trainer_in(composition, layout)
    return trainable_table(trainer.composition, trainer.models)


def test_what_trains_is_the_same_in_every_layout(compose: Compose) -> None:
    """Halves of tensors, copies of replicated ones, stages, a tied embedding and a padded vocabulary are counted as in one process."""
    composition = compose(
        "model.foundation.vocab_size=265", "model.foundation.untie_embeddings_and_output_weights=false", "model.image_encoder.freeze=true"
    )
    (alone,) = run_ranks(table_in, 1, composition, Layout())
    for layout in (
        Layout(data=2, tensor=2),
        Layout(tensor=2, pipeline=2, sequence_parallel=True, encoders={"image_encoder": 2}),
        Layout(data=2, pipeline=2, encoder_stage=True, optimizer="distributed"),
    ):
        assert run_ranks(table_in, layout.world_size, composition, layout) == [alone] * layout.world_size, layout
    with single_process():
        components = OmniModelProvider(composition=composition, registry=Registry.discover())().components()
    lines = {line.split()[0]: line for line in alone.splitlines()}
    for slot, component in components.items():
        assert f" {sum(parameter.numel() for parameter in component.parameters()):,} " in lines[slot]


def train_then_read_alone(composition: Composition, layout: Layout) -> tuple[list[str], torch.Tensor]:
    """What this rank wrote to its terminal, and its last weights; of the finished run, rank 0 makes a pass that no other rank makes."""
    composition = replace(composition, run=layout.settings(composition.run))
    initialise_groups(composition.run.parallel, seed=1)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        model = train(composition, Registry.discover()).models[0]
    weights = torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])
    again = train(composition, Registry.discover(), progress=quiet()).models[0]
    if distributed.get_rank() == 0:
        again(TrainingData(composition, Registry.discover()).batches(0)[0])
    return said.getvalue().splitlines(), weights


def test_weights_are_gathered_at_the_end_and_rank_0_speaks(compose: Compose) -> None:
    composition = compose("train.micro_batch_size=4", "train.log_interval=4")
    layout = Layout(data=2, optimizer="overlapped")
    (said, weights), (silence, others) = run_ranks(train_then_read_alone, 2, composition, layout, timeout_s=120)
    assert torch.equal(weights, others)
    assert silence == []
    assert [line.split("  ")[0] for line in said if line.startswith("step")] == ["step 4/8", "step 8/8"]
    output = Path(composition.run.output_dir)
    (one,) = run_ranks(train_then_read_alone, 1, compose(f"output_dir={output}-alone"), Layout())
    assert [line["loss"] for line in lines_of(output)] == pytest.approx([line["loss"] for line in lines_of(f"{output}-alone")], rel=1e-5)
    torch.testing.assert_close(weights, one[1], rtol=0, atol=1e-4)


# ---- kill -9


def run_and_die(config: str, at: tuple[str, int] | None) -> None:
    """Trains in a process that is killed when it comes to a call for the n-th time."""
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    if at is not None:
        die_at(*at)
    registry = Registry.discover()
    train(load_composition(config, registry=registry), registry, progress=quiet())


def die_at(name: str, count: int) -> None:
    owners = {"save": dist_checkpointing, "write_through": save, "rename": Path}
    owner: Any = owners.get(name, Metrics)
    call = getattr(owner, name)
    calls = itertools.count(1)

    def die(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)

    setattr(owner, name, die)


@pytest.fixture
def killable(compose: Compose, tmp_path: Path) -> Callable[..., tuple[str, Path]]:
    """A configuration that saves at every step, in a file that another process can read, and where its run lies."""

    def killable(name: str, *overrides: str) -> tuple[str, Path]:
        output = tmp_path / name
        composition = compose("train.save_interval=1", f"output_dir={output}", *overrides)
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(dict(composition.resolved)))
        return str(config), output

    return killable


AT = [
    ("write", 1),  # before anything is saved
    ("write", 4),  # after a checkpoint, before the metrics of the next step
    ("save", 3),  # the folder is there, and empty
    ("write_through", 2),  # all is written, nothing is certain
    ("rename", 5),  # complete, and not yet visible
    ("write_evaluation", 1),  # evaluated behind a checkpoint, and nobody knows
]


def test_a_run_killed_again_and_again_gives_the_same_metrics(killable: Callable[..., tuple[str, Path]], data_file: Path) -> None:
    """And the same evaluations. Killed at random instants, and in bfloat16, `test_kill.py` does."""
    (few := data_file.with_name("few.jsonl")).write_text("".join(data_file.read_text().splitlines(keepends=True)[:4]))
    evaluating = (f"data.eval_path={few}", "train.eval_interval=2", "evaluation.best_by=loss")
    whole, whole_output = killable("whole", *evaluating)
    config, output = killable("killed", *evaluating)
    run_ranks(run_and_die, 1, whole, None)
    for at in AT:
        with pytest.raises(RankError, match="status -9"):
            run_ranks(run_and_die, 1, config, at)
    run_ranks(run_and_die, 1, config, None)
    assert lines_of(output) == lines_of(whole_output)
    assert lines_of(output, "evaluations.jsonl") == lines_of(whole_output, "evaluations.jsonl")
    assert (output / "checkpoints" / "best.json").read_text() == (whole_output / "checkpoints" / "best.json").read_text()
    assert list(checkpoints(output)) == list(range(1, 9))
    assert not list((output / "checkpoints").glob(".*"))
