"""Evaluation during a run says the same in every layout, and training goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from runs import lines_of, quiet

from loongforge_core.config.composition import Composition
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry import Registry
from loongforge_core.testing.layouts import Layout
from loongforge_core.train.loop import train

Compose = Callable[..., Composition]


def run_in(composition: Composition, layout: Layout) -> list[str]:
    """The answers at the end."""
    composition = replace(composition, run=layout.settings(composition.run))
    initialise_groups(composition.run.parallel, seed=1)
    result = train(composition, Registry.discover(), progress=quiet(steps=3))
    return [one.answer for one in result.predictions or ()]


@pytest.fixture
def composition(compose: Compose, data_file: Path, tmp_path: Path) -> Callable[..., Composition]:
    """Evaluated on seven lines, which two ranks cannot share equally."""
    questions = data_file.with_name("seven.jsonl")
    questions.write_text("".join(data_file.read_text().splitlines(keepends=True)[:7]))

    def composition(name: str, *more: str) -> Composition:
        settings = ("train.steps=3", "train.lr_warmup_steps=0", "evaluation.max_new_tokens=3", "evaluation.batch_size=4")
        names = (f"data.eval_path={questions}", f"output_dir={tmp_path / name}")
        return compose(*names, "train.micro_batch_size=4", "model.foundation.vocab_size=265", *settings, *more)

    return composition


EXPERTS = [
    "model.foundation.type=qwen3_moe",
    *(f"+model.foundation.{field}" for field in ("num_moe_experts=4", "moe_ffn_hidden_size=24", "moe_router_topk=2")),
]
EVALUATING = "train.eval_interval=2"


def test_every_layout_finds_the_same_and_trains_on(composition: Callable[..., Composition]) -> None:
    """Weights that arrive while passes go on are there before the ranks make unequal passes, and arrive again afterwards."""
    one, overlapped = composition("one", EVALUATING), Layout(data=2, optimizer="overlapped")
    (answers,) = run_ranks(run_in, 1, one, Layout())
    for number, layout in enumerate((overlapped, Layout(pipeline=2, encoder_stage=True))):
        check(composition(str(number), EVALUATING), layout, one, answers)
    run_ranks(run_in, 2, composition("without"), overlapped, timeout_s=120)
    assert lines_of(composition("0").run.output_dir) == lines_of(composition("without").run.output_dir)


def test_ranks_that_share_experts_do(composition: Callable[..., Composition]) -> None:
    """Each would wait for the others' experts: they make the same passes."""
    one = composition("one", *EXPERTS, EVALUATING)
    (answers,) = run_ranks(run_in, 1, one, Layout())
    check(composition("two", *EXPERTS, EVALUATING), Layout(data=2, expert=2), one, answers)


def check(composition: Composition, layout: Layout, one: Composition, answers: list[str]) -> None:
    assert len(answers) == 7
    assert run_ranks(run_in, 2, composition, layout, timeout_s=120) == [answers, answers], layout
    expected = lines_of(one.run.output_dir, "evaluations.jsonl")
    assert [row["step"] for row in expected] == [2, 3]
    for row, theirs in zip(lines_of(composition.run.output_dir, "evaluations.jsonl"), expected, strict=True):
        assert row["loss"] == pytest.approx(theirs["loss"], rel=1e-5), layout  # I1
        assert {**row, "loss": None} == {**theirs, "loss": None}, layout
