"""Lines that cannot be used are counted and listed, each once, whatever the layout and however often the run is resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import lines_of, quiet
from torch import distributed

from loongforge_core.config.composition import Composition
from loongforge_core.data.lines import open_lines
from loongforge_core.data.skipped import SkippedLine
from loongforge_core.data.training_data import TrainingData, find_lines
from loongforge_core.errors import CheckpointError
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint.record import Record, numbers_of, require_numbers
from loongforge_core.train.loop import train
from loongforge_core.train.skipped_lines import SkippedLines, all_skipped

Compose = Callable[..., Composition]

BAD = (2, 11, 12, 30)


@pytest.fixture
def damaged(data_file: Path, tmp_path: Path) -> Path:
    """The data file, its images given by absolute paths, with lines that end too early."""
    lines = [json.loads(line) for line in data_file.read_text().splitlines()]
    texts = [json.dumps({**line, "images": [str(data_file.parent / name) for name in line["images"]]}) for line in lines]
    path = tmp_path / "damaged.jsonl"
    path.write_text("".join((text[:20] if number in BAD else text) + "\n" for number, text in enumerate(texts, 1)))
    return path


def written(output_dir: Path) -> tuple[list[dict[str, object]], list[int]]:
    return lines_of(output_dir, "skipped_lines.jsonl"), [line["lines_skipped"] for line in lines_of(output_dir)]


@pytest.mark.usefixtures("one_process")
def test_a_run_lists_what_it_skips_and_a_resumed_one_the_same(compose: Compose, registry: Registry, damaged: Path) -> None:
    """Eight steps of eight samples are more than an epoch of forty lines."""
    composition = compose("data.on_error=skip", f"data.path={damaged}", "train.save_interval=2")
    output, progress = Path(composition.run.output_dir), quiet()
    train(composition, registry, progress=progress)
    listed, counts = written(output)
    assert sorted(line["line"] for line in listed) == list(BAD)  # type: ignore[type-var]
    assert {line["file"] for line in listed} == {str(damaged)}
    assert all("expected a JSON object in one line" in str(line["reason"]) for line in listed)
    assert [line["step"] for line in listed] == sorted(line["step"] for line in listed)  # type: ignore[type-var]
    assert sum(counts) > len(BAD)  # some are met again, in the second epoch or in another line's place
    said = progress.stream.getvalue()  # type: ignore[attr-defined]
    assert f"4 lines of the data cannot be used and were skipped: see {output / 'skipped_lines.jsonl'}" in said
    for step in (4, 6, 8):
        shutil.rmtree(output / "checkpoints" / f"step_{step:08}")
    train(composition, registry, progress=quiet())
    assert written(output) == (listed, counts)


def test_a_line_is_listed_once_and_steps_to_be_repeated_are_cut_off(tmp_path: Path) -> None:
    one, two, three = (SkippedLine("a.jsonl", number, "why") for number in (1, 2, 3))
    lines = SkippedLines(tmp_path, first_step=0)
    lines.add(1, [])
    assert not lines.path.exists()
    for step, skipped in ((1, [two]), (2, [one, two, one]), (3, [three])):
        lines.add(step, skipped)
    assert len(lines) == 3
    again = SkippedLines(tmp_path, first_step=2)
    assert len(again) == 2
    again.add(3, [two, three])
    listed = [json.loads(line) for line in lines.path.read_text().splitlines()]
    assert [(line["step"], line["line"]) for line in listed] == [(1, 2), (2, 1), (3, 3)]


def skipped_by_ranks(composition: Composition) -> list[list[SkippedLine]]:
    data = TrainingData(composition, Registry.discover())
    rank, size = distributed.get_rank(), distributed.get_world_size()
    assert distributed.group.WORLD is not None
    return [all_skipped(data.step(step, rank=rank, size=size).skipped, distributed.group.WORLD) for step in range(5)]


def test_every_rank_knows_what_all_skip(compose: Compose, damaged: Path) -> None:
    composition = compose("data.on_error=skip", f"data.path={damaged}", "train.micro_batch_size=4")
    (alone,) = run_ranks(skipped_by_ranks, 1, composition)
    assert any(alone) and not all(alone)
    assert run_ranks(skipped_by_ranks, 2, composition) == [alone, alone]


def lines_found_by(composition: Composition) -> list[Path]:
    """The files that this rank looks through, where each is large."""
    from loongforge_core.data import line_index, lines

    lines.INDEXED_BYTES, looked, write = 0, [], line_index.write_index  # this process ends with the test

    def noted(path: Path, stream: object) -> None:
        looked.append(path)
        write(path, stream)  # type: ignore[arg-type]

    line_index.write_index = noted  # type: ignore[assignment]
    find_lines(composition.run)
    for path in composition.run.data.paths:
        assert open_lines(Path(path)).mapped
    return looked


def test_ranks_share_out_the_files_whose_lines_must_be_found(compose: Compose, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for path in files:
        path.write_text("{}\n")
    composition = compose(f"data.path=[{','.join(map(str, files))}]")
    assert run_ranks(lines_found_by, 2, composition) == [[files[0], files[2]], [files[1]]]


def test_a_changed_mixture_is_another_run(compose: Compose, registry: Registry, data_file: Path) -> None:
    def numbers(*sources: str) -> dict[str, object]:
        composition = compose(f"data.path=[{','.join(sources)}]")
        recorded: dict[str, object] = numbers_of(composition, TrainingData(composition, registry))["data"]
        return recorded

    def source(weight: float) -> str:
        return f"{{path:{data_file},weight:{weight}}}"

    plain, mixed = numbers(str(data_file)), numbers(source(0.7), source(0.3))
    assert mixed["shares of path"] == ["7/10", "3/10"] and "shares of path" not in plain
    assert numbers(source(7), source(3)) == mixed != numbers(source(6), source(3))
    assert numbers(source(5)) == plain


def test_what_is_too_long_may_not_change_where_it_is_skipped(compose: Compose, registry: Registry) -> None:
    """Nor need it stay where nothing is; and a run that stopped at a line may skip it from now on."""

    def record_of(*overrides: str) -> Record:
        composition = compose(*overrides)
        return Record(step=1, model={}, numbers=numbers_of(composition, TrainingData(composition, registry)), plugins=())

    stop, skip = record_of(), record_of("data.on_error=skip")
    longer_stop, longer_skip = record_of("train.seq_length=200"), record_of("data.on_error=skip", "train.seq_length=200")
    for before, after in ((stop, longer_stop), (stop, skip), (skip, stop), (stop, longer_skip), (skip, skip)):
        require_numbers(before, after.numbers, Path("checkpoint"))
    with pytest.raises(CheckpointError, match=r"train.seq_length of a line that is not skipped: the checkpoint has 128, this run has 200"):
        require_numbers(skip, longer_skip.numbers, Path("checkpoint"))
