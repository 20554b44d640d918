"""Evaluation during a run: what it says is what a model of those weights says, the best checkpoint stays, and training does not notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import lines_of, quiet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loongforge_core.config.composition import Composition
from loongforge_core.config.settings import EvaluationSettings
from loongforge_core.data.collate import collate
from loongforge_core.data.conversations import ConversationFiles
from loongforge_core.data.training_data import load_sample_maker
from loongforge_core.errors import CheckpointError, ConfigError
from loongforge_core.generate.evaluate import answer_questions
from loongforge_core.generate.greedy import GreedyDecoder
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint.folders import checkpoints
from loongforge_core.train.checkpoint.load import load_model
from loongforge_core.train.held_out import HeldOut, best_checkpoint, best_of
from loongforge_core.train.loop import train

Compose = Callable[..., Composition]

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def questions(data_file: Path) -> Path:
    """Eight of the training lines, with no, one and two images."""
    path = data_file.with_name("questions.jsonl")
    path.write_text("".join(data_file.read_text().splitlines(keepends=True)[:8]))
    return path


def settings(questions: Path, *more: str, interval: int = 3) -> list[str]:
    return [f"data.eval_path={questions}", f"train.eval_interval={interval}", "evaluation.max_new_tokens=4", *more]


def test_what_is_found_is_what_the_weights_say(compose: Compose, registry: Registry, questions: Path) -> None:
    """And the metrics are those of a run that evaluates nothing, bit for bit."""
    composition = compose(*settings(questions, "train.micro_batch_size=4"))
    result = train(composition, registry, progress=(progress := quiet()))
    rows = lines_of(composition.run.output_dir, "evaluations.jsonl")
    assert [row["step"] for row in rows] == [3, 6, 8] and all(row["samples"] == 8 for row in rows)
    maker = load_sample_maker(composition, registry)
    conversations = ConversationFiles([questions], composition.modalities)
    for row in rows:
        if row["step"] not in (found := checkpoints(Path(composition.run.output_dir))):
            continue  # it was not the best when it was made
        (model,) = models = [OmniModelProvider(composition=composition, registry=registry)()]
        load_model(found[row["step"]], models, composition)
        batch = collate([maker.sample(each) for each in conversations])
        with torch.no_grad():
            loss = model(batch)[batch.loss_mask_bs.bool()].mean().item()
        assert row["loss"] == pytest.approx(loss, rel=1e-5)
        predictions = answer_questions(GreedyDecoder(maker, model, 4), conversations, batch_size=64)
        assert row["exact_match"] == sum(each.is_correct for each in predictions) / 8
    assert result.predictions is not None and list(result.predictions) == predictions
    assert f"step 8: held-out loss {rows[2]['loss']:.4f}, exact match" in progress.stream.getvalue()  # type: ignore[attr-defined]
    board = EventAccumulator(str(composition.run.output_dir)).Reload()
    assert [event.step for event in board.Scalars("held_out_loss")] == [3, 6, 8]
    without = compose("train.micro_batch_size=4", f"output_dir={composition.run.output_dir}-without")
    train(without, registry, progress=quiet())
    assert lines_of(composition.run.output_dir) == lines_of(without.run.output_dir)


def test_the_best_checkpoint_is_kept(compose: Compose, registry: Registry, questions: Path) -> None:
    """At a rate at which training soon falls apart, the first evaluation is the best; each save removes all but it and the newest."""
    more = ("train.lr=2", "train.lr_warmup_steps=8", "evaluation.best_by=loss", "train.save_interval=4", "train.keep_checkpoints=1")
    composition = compose(*settings(questions, *more, interval=2))
    output = Path(composition.run.output_dir)
    result = train(composition, registry, progress=quiet())
    rows = lines_of(composition.run.output_dir, "evaluations.jsonl")
    assert rows[0]["loss"] == min(row["loss"] for row in rows) and result.predictions is rows[0]["exact_match"] is None
    assert list(checkpoints(output)) == [2, 8] and best_checkpoint(output).name == "step_00000002"
    assert json.loads((output / "checkpoints" / "best.json").read_text())["step"] == 2
    best_checkpoint(output).rename(output / "elsewhere")
    with pytest.raises(CheckpointError, match=r"step 2 was the best, but there are only checkpoints of \[8\]"):
        best_checkpoint(output)


def test_an_evaluation_that_a_stopped_run_did_not_come_to_is_made_first(
    compose: Compose, registry: Registry, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the checkpoint at which it was interrupted, and also where that was the last."""
    composition = compose(*settings(questions, "train.save_interval=3", "evaluation.best_by=loss"))
    own = HeldOut.evaluate
    for stop_at in (3, 8, None):

        def evaluate(self: HeldOut, step: int, trainer: Any, stop_at: int | None = stop_at, **more: Any) -> Any:
            if step == stop_at:
                raise KeyboardInterrupt
            return own(self, step, trainer, **more)

        with monkeypatch.context() as patch:
            patch.setattr(HeldOut, "evaluate", evaluate)
            if stop_at is None:
                train(composition, registry, progress=quiet())
                continue
            with pytest.raises(KeyboardInterrupt):
                train(composition, registry, progress=quiet())
        assert list(checkpoints(Path(composition.run.output_dir))) == ([3] if stop_at == 3 else [3, 6, 8])
    whole = compose(*settings(questions, "evaluation.best_by=loss"), f"output_dir={composition.run.output_dir}-whole")
    train(whole, registry, progress=quiet())
    assert lines_of(composition.run.output_dir, "evaluations.jsonl") == lines_of(whole.run.output_dir, "evaluations.jsonl")
    assert best_checkpoint(Path(composition.run.output_dir)).name == best_checkpoint(Path(whole.run.output_dir)).name


def test_another_held_out_file_is_another_competition(compose: Compose, registry: Registry, questions: Path) -> None:
    """And an evaluation on it is made behind the checkpoint that there is."""
    more = ("evaluation.best_by=loss", "train.save_interval=3")
    composition = compose(*settings(questions, *more))
    train(composition, registry, progress=quiet())
    first = lines_of(composition.run.output_dir, "evaluations.jsonl")
    questions.write_text("".join(questions.read_text().splitlines(keepends=True)[:4]))
    train(composition, registry, progress=(progress := quiet()))
    said = progress.stream.getvalue()  # type: ignore[attr-defined]
    assert "data.eval_path has changed: 3 earlier evaluations were on another file" in said
    *before, last = lines_of(composition.run.output_dir, "evaluations.jsonl")
    assert before == first and (last["step"], last["samples"]) == (8, 4)
    assert json.loads((Path(composition.run.output_dir) / "checkpoints" / "best.json").read_text())["loss"] == last["loss"]


def test_which_is_the_best() -> None:
    rows = [
        {"step": step, "loss": loss, "exact_match": match}
        for step, loss, match in ((1, None, 0.5), (2, 3.0, 0.5), (3, 3.0, 0.5), (4, 1.0, 0.25), (5, 4.0, None))
    ]
    found = {by: best_of(rows, EvaluationSettings(best_by=by)) for by in ("exact_match", "loss")}
    assert found == {"exact_match": rows[1], "loss": rows[3]}  # among equals the lower loss, then the first
    assert best_of([], EvaluationSettings()) is None


def test_evaluating_on_nothing_is_refused(compose: Compose) -> None:
    with pytest.raises(ConfigError, match=r"train\.eval_interval.*got 3, but there is nothing to evaluate on: set data\.eval_path"):
        compose("train.eval_interval=3")
