"""However a run ends, by a signal, a full disk or a lost rank: its last checkpoint is complete, and it goes on from there exactly."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from megatron.core import dist_checkpointing
from runs import lines_of, quiet
from torch import distributed

from loongforge_core.config.composition import Composition
from loongforge_core.errors import InputError, LoongForgeError
from loongforge_core.parallel import forked
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import RankError, run_ranks
from loongforge_core.registry import Registry
from loongforge_core.train import notice
from loongforge_core.train.checkpoint.folders import checkpoints, prepare_folder
from loongforge_core.train.checkpoint.save import expected_bytes
from loongforge_core.train.disk import bytes_of, shortage
from loongforge_core.train.held_out import HeldOut
from loongforge_core.train.loop import train
from loongforge_core.train.prepare import checkpoints_at_once
from loongforge_core.train.step import Trainer

Compose = Callable[..., Composition]

SMALL = ("model.image_encoder.num_layers=1", "model.foundation.num_layers=1", "train.micro_batch_size=4", "train.steps=5")
NOBODY = 65534

# ---- on a rank


@dataclass(frozen=True)
class Mishap:
    """What happens to a rank in a step, or the so manieth time that it saves or evaluates."""

    what: Literal["told", "told twice", "lost", "no space"]
    rank: int
    step: int
    when: Literal["training", "saving", "evaluating"] = "training"
    signal: int = 0

    def happen(self) -> None:
        if self.what == "no space":  # what a file may be at most: a limit that every user may set, unlike the size of a disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096 if self.when == "saving" else 64, resource.RLIM_INFINITY))
            return
        number = signal.SIGKILL if self.what == "lost" else self.signal
        os.kill(os.getpid(), number)
        if self.what == "told twice":
            notice.AGAIN_S = -1.0  # as if that long had passed
            os.kill(os.getpid(), number)


def run(composition: Composition, mishap: Mishap | None) -> tuple[int, str | None, str]:
    """The last step, the signal that ended the run, and what was said."""
    if mishap and mishap.rank == distributed.get_rank():
        arrange(mishap)
    initialise_groups(composition.run.parallel, seed=composition.run.train.seed)
    result = train(composition, Registry.discover(), progress=(progress := quiet(steps=5)))
    assert [signal.getsignal(number) for number in forked.NOTICES] == [signal.SIG_DFL] * 2, "as they were before"
    return result.step, result.ended_by.name if result.ended_by else None, progress.stream.getvalue()  # type: ignore[attr-defined]


def arrange(mishap: Mishap) -> None:
    places: dict[str, tuple[Any, str]] = {
        "training": (Trainer, "step"),
        "saving": (dist_checkpointing, "save"),
        "evaluating": (HeldOut, "evaluate"),
    }
    owner, name = places[mishap.when]
    call, calls = getattr(owner, name), [0]

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == mishap.step:
            mishap.happen()
        return call(*args, **kwargs)

    setattr(owner, name, interrupted)


# ---- compared


def folders(composition: Composition) -> list[str]:
    return sorted(path.name for path in (Path(composition.run.output_dir) / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole_run() -> list[list[dict[str, Any]]]:
    """Filled by the first test that asks for it: the run that nothing happens to."""
    return []


@pytest.fixture
def two(compose: Compose) -> Composition:
    """A run of two data-parallel ranks."""
    return compose(*SMALL, "parallel.use_distributed_optimizer=true")


@pytest.fixture
def whole(two: Composition, compose: Compose, whole_run: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    if not whole_run:
        same = compose(*SMALL, "parallel.use_distributed_optimizer=true", f"output_dir={two.run.output_dir}-whole")
        run_ranks(run, 2, same, None)
        whole_run.append(lines_of(same.run.output_dir))
    return whole_run[0]


def goes_on(composition: Composition, whole: Sequence[dict[str, Any]], said: str = "") -> None:
    (step, ended_by, heard), _ = run_ranks(run, 2, composition, None)
    assert (step, ended_by) == (5, None) and said in heard
    assert lines_of(composition.run.output_dir) == whole


# ---- signals


@pytest.mark.parametrize(("number", "rank"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 0)])
def test_a_signal_to_one_rank_has_all_save_after_the_step_in_flight(
    two: Composition, whole: list[dict[str, Any]], number: signal.Signals, rank: int
) -> None:
    (step, ended_by, said), other = run_ranks(run, 2, two, Mishap("told", rank, step=3, signal=number))
    assert (step, ended_by) == other[:2] == (3, number.name)
    saved = Path(two.run.output_dir) / "checkpoints" / "step_00000003"
    assert said.splitlines()[-1] == f"stopped by {number.name} after step 3 of 5; saved in {saved}; the same command goes on"
    assert folders(two) == ["step_00000003"]
    goes_on(two, whole, f"going on from {saved}")


def test_a_signal_while_saving_ends_the_run_with_that_checkpoint(compose: Compose) -> None:
    composition = compose(*SMALL, "train.save_interval=2")
    ((step, ended_by, _),) = run_ranks(run, 1, composition, Mishap("told", 0, step=1, when="saving", signal=signal.SIGTERM))
    assert (step, ended_by, folders(composition)) == (2, "SIGTERM", ["step_00000002"])


def test_a_signal_while_evaluating_breaks_it_off_and_it_is_made_when_the_run_goes_on(compose: Compose, data_file: Path) -> None:
    """Of five questions, two ranks have three and two: they ask each other as often all the same."""
    questions = data_file.with_name("questions.jsonl")
    questions.write_text("".join(data_file.read_text().splitlines(keepends=True)[:5]))
    more = ("train.eval_interval=1", "train.micro_batch_size=1", "evaluation.max_new_tokens=2", "evaluation.batch_size=1")
    settings = (*SMALL, f"data.eval_path={questions}", *more)
    composition = compose(*settings)
    (step, ended_by, _), other = run_ranks(run, 2, composition, Mishap("told", 1, step=2, when="evaluating", signal=signal.SIGTERM))
    assert (step, ended_by) == other[:2] == (2, "SIGTERM") and "step_00000002" in folders(composition)
    assert [row["step"] for row in lines_of(composition.run.output_dir, "evaluations.jsonl")] == [1]
    run_ranks(run, 2, composition, None)
    whole = compose(*settings, f"output_dir={composition.run.output_dir}-whole")
    run_ranks(run, 2, whole, None)
    assert [row["step"] for row in lines_of(whole.run.output_dir, "evaluations.jsonl")] == [1, 2, 3, 4, 5]
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert lines_of(composition.run.output_dir, name) == lines_of(whole.run.output_dir, name)


def test_a_signal_in_the_last_step_ends_a_run_that_is_finished(compose: Compose) -> None:
    composition = compose(*SMALL)
    ((step, ended_by, _),) = run_ranks(run, 1, composition, Mishap("told", 0, step=5, signal=signal.SIGUSR1))
    assert (step, ended_by, folders(composition)) == (5, "SIGUSR1", ["step_00000005"])


def test_the_same_signal_again_ends_a_rank_at_once(compose: Compose) -> None:
    composition = compose(*SMALL)
    with pytest.raises(RankError, match=r"status -15 \(SIGTERM\)"):
        run_ranks(run, 1, composition, Mishap("told twice", 0, step=2, signal=signal.SIGTERM))
    assert len(lines_of(composition.run.output_dir)) == 1 and not checkpoints(Path(composition.run.output_dir))


def told_too_late() -> None:
    with notice.noticing() as noticed:
        assert noticed.agree() is None
        os.kill(os.getpid(), signal.SIGUSR1)


def test_a_signal_that_comes_too_late_to_be_agreed_on_has_its_usual_effect() -> None:
    with pytest.raises(RankError, match=r"status -10 \(SIGUSR1\)"):
        run_ranks(told_too_late, 1)


# ---- a lost rank


def test_a_lost_rank_leaves_the_last_checkpoint(compose: Compose, two: Composition, whole: list[dict[str, Any]]) -> None:
    often = compose(*SMALL, "parallel.use_distributed_optimizer=true", "train.save_interval=2")
    with pytest.raises(RankError, match=r"rank 1 of 2 failed\n.*status -9"):
        run_ranks(run, 2, often, Mishap("lost", 1, step=4))
    assert list(checkpoints(Path(often.run.output_dir))) == [2]
    goes_on(often, whole, "going on from")


# ---- a disk that is full


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_is_said_and_the_checkpoint_before_it_is_complete(compose: Compose, whole: list[dict[str, Any]], rank: int) -> None:
    often = compose(*SMALL, "parallel.use_distributed_optimizer=true", "train.save_interval=2")
    with pytest.raises(RankError) as caught:
        run_ranks(run, 2, often, Mishap("no space", rank, step=2, when="saving"))
    saved = Path(often.run.output_dir) / "checkpoints"
    assert isinstance(caught.value.__cause__, LoongForgeError)
    assert str(caught.value.__cause__) == (
        f"{saved / 'step_00000004'} could not be written: rank {rank}: File too large; "
        f"the last complete checkpoint is as it was: {saved / 'step_00000002'}. The same command goes on from it"
    )
    assert list(checkpoints(Path(often.run.output_dir))) == [2]
    goes_on(often, whole)
    assert folders(often) == ["step_00000002", "step_00000004", "step_00000005"]


def test_metrics_that_cannot_be_written_say_so_too(compose: Compose) -> None:
    composition = compose(*SMALL)
    with pytest.raises(RankError) as caught:
        run_ranks(run, 1, composition, Mishap("no space", 0, step=1))
    path = Path(composition.run.output_dir) / "metrics.jsonl"
    assert str(caught.value.__cause__) == f"{path} could not be written: File too large; there is no checkpoint before it"


@pytest.mark.usefixtures("one_process")
def test_too_little_room_is_said_before_the_first_step(compose: Compose, tmp_path: Path) -> None:
    composition = compose(*SMALL)
    train_settings = composition.run.train
    for interval, keep, retained, number in ((0, 0, 0, 1), (1, 0, 0, 5), (2, 0, 0, 3), (1, 2, 0, 3), (1, 1, 2, 4)):
        changed = {"save_interval": interval, "keep_checkpoints": keep, "save_retain_interval": retained}
        assert checkpoints_at_once(train_settings.model_copy(update=changed), 0) == number
    assert checkpoints_at_once(train_settings, 5) == 0
    trained = train(composition, Registry.discover(), progress=(progress := quiet(steps=5)))
    expected = expected_bytes(composition, trained.models)
    assert 1 <= bytes_of(trained.checkpoint) / expected < 4, "the smallest models have more beside their tensors than in them"
    assert "warning" not in progress.stream.getvalue() and shortage(tmp_path / "new", each=expected, number=3) is None
    warning = shortage(tmp_path / "new", each=10**16, number=3)
    assert warning and f"free where {tmp_path / 'new'} lies, and this run's checkpoints take 3 of about 10000.0 TB" in warning


# ---- a folder that cannot be written to


@pytest.mark.usefixtures("one_process")
def test_a_folder_that_cannot_be_made_is_refused_before_the_model_is_built(compose: Compose, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").touch()
    progress = quiet(steps=5)
    with pytest.raises(InputError, match=r"^output_dir: .*/run/checkpoints.* cannot be written: Not a directory \(as user"):
        train(compose(*SMALL), Registry.discover(), progress=progress)
    assert "building" not in progress.stream.getvalue()


def prepare_as_somebody_else(folder: Path, rank: int) -> str:
    """As a user to whom the folder does not belong, on one rank."""
    if distributed.get_rank() == rank and os.geteuid() == 0:
        os.seteuid(NOBODY)
    try:
        prepare_folder(folder)
    except InputError as error:
        return str(error)
    return ""


def test_a_read_only_folder_is_refused_on_all_ranks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755 if os.geteuid() == 0 else 0o555)
    first, second = run_ranks(prepare_as_somebody_else, 2, folder, 0)
    assert first == second and f"output_dir: {folder}" in first and "Permission denied (as user" in first
    if os.geteuid() == 0:  # one user has one view of a disk: nobody else can be had
        first, second = run_ranks(prepare_as_somebody_else, 2, folder, 1)
        assert first == second and "on rank 1" in first and first.endswith("rank 0 can: all machines must see the same folder")
    assert run_ranks(prepare_as_somebody_else, 2, tmp_path / "mine", 2) == ["", ""]
    assert not list((tmp_path / "mine" / "checkpoints").iterdir())
