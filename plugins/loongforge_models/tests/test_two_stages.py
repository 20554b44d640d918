"""The published recipe of two stages, `digits_align` and `digits_finetune`, with fewer steps; and what `train.start_from` refuses."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from loongforge_core.cli.main import main
from loongforge_core.config.check import load_composition
from loongforge_core.config.composition import Composition
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.train.checkpoint.folders import find_checkpoint
from loongforge_core.train.checkpoint.load import load_model
from loongforge_core.train.checkpoint.save import save_start
from loongforge_core.train.prepare import prepare
from loongforge_core.train.progress import Progress

SHORT = ["train.steps=30", "train.global_batch_size=32", "train.micro_batch_size=32", "train.lr_warmup_steps=3", "data.eval_path=null"]


def begin(name: str, folder: Path, *arguments: str) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        return main(["train", name, *SHORT, "train.export_hf=false", f"output_dir={folder}", *arguments])


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, one after the other, in `align` and `finetune`."""
    folder = tmp_path_factory.mktemp("stages")
    assert begin("digits_align", folder / "align", "--without", "loongforge-audio") == 0
    assert begin("digits_finetune", folder / "finetune", *second(folder)) == 0
    return folder


def second(stages: Path) -> list[str]:
    return [f"train.start_from={stages / 'align'}", "data.prepare=null", f"data.path={stages / 'align' / 'data' / 'train.jsonl'}"]


def composition(name: str, *overrides: str) -> Composition:
    return load_composition(name, [*SHORT, "data.path=null", "data.prepare=null", *overrides], registry=Registry.discover())


def weights(name: str, run: Path | None) -> dict[str, Tensor]:
    """Of a run's newest checkpoint, or those that a run begins with."""
    chosen = composition(name)
    with single_process(seed=chosen.run.train.seed):
        model = OmniModelProvider(composition=chosen, registry=Registry.discover())()
        if run:
            load_model(find_checkpoint(run), [model], chosen)
        return tensors(model)


def tensors(model: Any) -> dict[str, Tensor]:
    components = model.components().items()
    return {f"{slot}.{name}": value.detach().clone() for slot, module in components for name, value in module.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_stage_one_changes_the_projector_and_not_a_bit_of_the_rest(stages: Path) -> None:
    before, after = weights("digits_align", None), weights("digits_align", stages / "align")
    assert changed(before, after) == {name for name in before if name.startswith("image_projector.")} != set()


def test_stage_two_begins_with_stage_one_and_trains_the_encoder_slower(stages: Path, tmp_path: Path) -> None:
    registry = Registry.discover()
    chosen = load_composition("digits_finetune", [*SHORT, *second(stages), f"output_dir={tmp_path}"], registry=registry)
    with single_process(seed=chosen.run.train.seed), Progress(steps=1, log_interval=1, stream=io.StringIO()) as progress:
        run, done = prepare(chosen, registry, progress)
        assert done == 0
        (model,) = run.trainer.models
        begun = tensors(model)
    assert not changed(weights("digits_align", stages / "align"), begun)
    rates = {group.slot: group.lr for group in run.trainer.parameter_groups}
    assert rates == {"image_encoder": 4e-4, "image_projector": 2e-3, "foundation": 2e-3}


def test_stage_two_changes_every_part_and_the_encoder_less(stages: Path) -> None:
    before, after = weights("digits_align", stages / "align"), weights("digits_finetune", stages / "finetune")
    assert {name.partition(".")[0] for name in changed(before, after)} == {"image_encoder", "image_projector", "foundation"}
    steps = {slot: mean_change(before, after, slot) for slot in ("image_encoder", "foundation")}
    assert 0 < steps["image_encoder"] < steps["foundation"] / 2


def mean_change(before: dict[str, Tensor], after: dict[str, Tensor], slot: str) -> float:
    matrices = [name for name in before if name.startswith(f"{slot}.") and ".layers." in name and before[name].dim() == 2]
    return sum((after[name] - before[name]).abs().mean().item() for name in matrices) / len(matrices)


def test_the_loss_falls_in_both_and_goes_on_where_it_was(stages: Path) -> None:
    align, finetune = ([line["loss"] for line in metrics(stages / name)] for name in ("align", "finetune"))
    assert len(align) == len(finetune) == 30
    for losses in (align, finetune):
        assert mean(losses[-5:]) < mean(losses[:5]) - 0.2
    assert abs(finetune[0] - mean(align[-5:])) < (align[0] - finetune[0]) / 2


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def test_a_plugin_that_was_left_out_is_recorded(stages: Path) -> None:
    (checkpoint,) = (stages / "align" / "checkpoints").iterdir()
    for file in (stages / "align" / "plugins.json", checkpoint / "loongforge.json"):
        plugins = json.loads(file.read_text())["plugins"]
        assert "loongforge_audio 0.1.0 is left out (--without)" in plugins and "loongforge_audio 0.1.0" not in plugins


# ---- going on, and what is refused


def test_stage_two_resumes_itself_and_not_stage_one(stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert begin("digits_finetune", stages / "finetune", *second(stages)) == 0
    assert "already finished: 30 steps are done" in capsys.readouterr().err
    assert begin("digits_finetune", stages / "finetune", *second(stages), "train.start_from=elsewhere") == 2
    assert 'train.start_from: the checkpoint has "' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.start_from=nowhere"], "nowhere holds no checkpoint"),
        (["model.foundation.num_layers=1"], "model.foundation.num_layers: the checkpoint has 2, this run has 1"),
    ],
)
def test_what_a_run_cannot_start_from(
    stages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    assert begin("digits_finetune", tmp_path / "out", *second(stages), *arguments) == 2
    assert message in (said := capsys.readouterr().err)
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_run_starts_from_one_place(stages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with imported weights has some to begin with already."""
    chosen = composition("digits_finetune", f"output_dir={tmp_path / 'out'}")
    with single_process(seed=1):
        save_start(tmp_path / "out", [OmniModelProvider(composition=chosen, registry=Registry.discover())()], chosen, [])
    assert begin("digits_finetune", tmp_path / "out", *second(stages)) == 2
    assert "has weights to begin with, and so has train.start_from" in capsys.readouterr().err
