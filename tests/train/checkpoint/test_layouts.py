"""Saved in one layout, loaded in another: every number arrives exactly, and training goes on within I1; in the same layout bit for bit."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import models
import pytest
from moving import SAVED_AT, check, uninterrupted
from torch import distributed

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.model.batch import Batch
from loongforge_core.parallel.launch import RankError, run_ranks
from loongforge_core.registry import Registry
from loongforge_core.testing.layouts import Layout, trainer_in
from loongforge_core.train.checkpoint.folders import checkpoints
from loongforge_core.train.checkpoint.record import Record, model_of, numbers_of
from loongforge_core.train.checkpoint.save import save_checkpoint
from loongforge_core.train.checkpoint.stored import optimizer_state
from loongforge_core.train.result import StepResult

Compose = Callable[..., Composition]
Expect = Callable[[Composition], Sequence[StepResult]]

ONE = Layout()
DATA = Layout(data=2)
SHARED = Layout(data=2, optimizer="distributed")
OVERLAPPED = Layout(data=2, optimizer="overlapped")
TENSOR = Layout(tensor=2)
SEQUENCE = Layout(tensor=2, sequence_parallel=True)
PIPELINE = Layout(pipeline=2)
BOTH = Layout(tensor=2, pipeline=2)
ALL = Layout(data=2, tensor=2, pipeline=2, sequence_parallel=True, optimizer="distributed")
TENSOR_SHARED = Layout(data=2, tensor=2, optimizer="distributed")
ENCODER_SPLIT = Layout(data=2, tensor=2, encoders={"image_encoder": 2}, optimizer="distributed")
ENCODER_STAGE = Layout(pipeline=2, encoder_stage=True)
EXPERTS_SHARED = Layout(data=2, expert=2, optimizer="distributed")
EXPERTS_ON_TENSOR_RANKS = Layout(tensor=2, sequence_parallel=True, expert=2, expert_tensor=1)


@pytest.fixture(scope="session")
def expect() -> Expect:
    """`uninterrupted`, once for every model."""
    known: dict[str, Sequence[StepResult]] = {}

    def expect(composition: Composition) -> Sequence[StepResult]:
        model = str(composition.resolved["model"])
        if model not in known:
            (known[model],) = run_ranks(uninterrupted, 1, composition)
        return known[model]

    return expect


# ---- compositions

# Widths that are no powers of two: the ranges of the distributed optimizer, multiples of 64 values, end within rows.
FOUNDATION = {
    **models.FOUNDATION,
    "num_layers": 2,
    "hidden_size": 24,
    "ffn_hidden_size": 40,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 265,  # odd: padded where the table is split, and the padding is not stored
}
EXPERTS = {**FOUNDATION, **models.EXPERTS, "mtp_num_layers": 1}
ENCODER = {**models.SIGLIP, "hidden_size": 20, "ffn_hidden_size": 36, "num_attention_heads": 2}
TRAIN = {
    "global_batch_size": 8,
    "micro_batch_size": 1,
    "steps": 6,
    "lr": 4e-3,
    "lr_warmup_steps": 1,
    # The gradient of a SigLIP's key bias is nothing but rounding, about 1e-9: with the usual 1e-8 Adam would make steps of it.
    "adam_eps": 1e-6,
}


@pytest.fixture(scope="session")
def text_file(data_file: Path) -> Path:
    """The questions without images."""
    path = data_file.with_name("text.jsonl")
    lines = [json.loads(line) for line in data_file.read_text().splitlines()]
    path.write_text("\n".join(json.dumps({"messages": line["messages"]}) for line in lines if not line["images"]) + "\n")
    return path


@pytest.fixture
def build(registry: Registry, data_file: Path, text_file: Path, tmp_path: Path) -> Compose:
    def build(
        *,
        images: bool = False,
        tied: bool = False,
        experts: bool = False,
        freeze: Any = False,
        freeze_rest: Any = False,
        precision: str = "fp32",
    ) -> Composition:
        """`freeze`: of the image encoder; `freeze_rest`: of the projector, and patterns of the decoder's parameters."""
        foundation = {**(EXPERTS if experts else FOUNDATION), "untie_embeddings_and_output_weights": not tied, "freeze": freeze_rest}
        projector = {"type": "mlp", "init_method_std": 0.1, "freeze": bool(freeze_rest)}
        encoder = {"image_encoder": {**ENCODER, "freeze": freeze}, "image_projector": projector}
        tree = {
            "model": {"model_type": "llava" if images else "default", **(encoder if images else {}), "foundation": foundation},
            "tokenizer": "pkg://loongforge_models/digits/tokenizer",
            "train": {**TRAIN, "precision": precision},
            "data": {"path": str(data_file if images else text_file)},
            "output_dir": str(tmp_path / "run"),
        }
        return composition_from(tree, registry)

    return build


# ---- every layout as a source and as a target


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        pytest.param(ONE, (SHARED, SEQUENCE), id="whole tensors into ranges, and into slices"),
        pytest.param(SHARED, (ONE, DATA), id="ranges into whole tensors"),
        pytest.param(OVERLAPPED, (BOTH,), id="weights that are still being gathered"),
        pytest.param(SEQUENCE, (PIPELINE,), id="slices into stages; padding of the vocabulary goes"),
        pytest.param(DATA, (OVERLAPPED,), id="copies are stored once"),
        pytest.param(BOTH, (TENSOR_SHARED,), id="slices of stages into ranges of slices"),
        pytest.param(TENSOR_SHARED, (TENSOR,), id="ranges of slices into slices"),
        pytest.param(PIPELINE, (ALL,), id="everything at once"),
    ],
)
def test_a_decoder_moves(build: Compose, expect: Expect, source: Layout, targets: Sequence[Layout]) -> None:
    composition = build()
    check(composition, source, *targets, expected=expect(composition))


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        pytest.param(PIPELINE, (SEQUENCE, ONE), id="the last stage's copy is not stored"),
        pytest.param(SHARED, (ALL,), id="the last stage's copy is read in ranges"),
    ],
)
def test_a_tied_decoder_moves(build: Compose, expect: Expect, source: Layout, targets: Sequence[Layout]) -> None:
    composition = build(tied=True)
    check(composition, source, *targets, expected=expect(composition))


@pytest.mark.parametrize(
    ("source", "targets", "freeze"),
    [
        pytest.param(TENSOR, (PIPELINE,), False, id="an encoder on each of two tensor ranks is stored once"),
        pytest.param(ENCODER_SPLIT, (SHARED,), False, id="an encoder's own slices in ranges"),
        pytest.param(ENCODER_STAGE, (TENSOR_SHARED,), ["patch_embedding.*"], id="a stage without decoder layers, partly frozen"),
        pytest.param(SHARED, (ENCODER_STAGE,), True, id="an encoder that has no moments"),
    ],
)
def test_a_llava_moves(build: Compose, expect: Expect, source: Layout, targets: Sequence[Layout], freeze: bool | list[str]) -> None:
    composition = build(images=True, freeze=freeze)
    check(composition, source, *targets, expected=expect(composition))


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        pytest.param(ONE, (EXPERTS_SHARED,), id="each expert to its rank"),
        pytest.param(EXPERTS_SHARED, (ONE, EXPERTS_ON_TENSOR_RANKS), id="experts from two optimizers, and the bias that balances them"),
        pytest.param(EXPERTS_ON_TENSOR_RANKS, (SEQUENCE,), id="whole experts into slices"),
    ],
)
def test_experts_move(build: Compose, expect: Expect, source: Layout, targets: Sequence[Layout]) -> None:
    composition = build(experts=True)
    check(composition, source, *targets, expected=expect(composition))


@pytest.mark.parametrize("optimizer", ["whole", "distributed"])
def test_a_stage_on_which_nothing_trains_moves(build: Compose, expect: Expect, optimizer: Literal["whole", "distributed"]) -> None:
    """Rank 0, which writes what all ranks share, knows of no step and no group of parameters."""
    composition = build(images=True, freeze=True, freeze_rest=["embedding.*"])
    check(composition, replace(ENCODER_STAGE, optimizer=optimizer), DATA, expected=expect(composition))


@pytest.mark.parametrize(("source", "target"), [(SHARED, SEQUENCE), (PIPELINE, OVERLAPPED)])
def test_float32_originals_of_bfloat16_weights_move(build: Compose, source: Layout, target: Layout) -> None:
    check(build(precision="bf16"), source, target, expected=None)


# ---- what cannot be written


def save_onto_a_full_disk(composition: Composition, layout: Layout, fails: int) -> None:
    """Saves twice; the second time, one rank cannot bring its files to disk."""
    trainer = trainer_in(composition, layout)
    record = Record(step=1, model=model_of(composition), numbers={}, plugins=())
    save_checkpoint(Path(composition.run.output_dir), trainer, record)
    if distributed.get_rank() == fails:
        os.fsync = fail
    save_checkpoint(Path(composition.run.output_dir), trainer, replace(record, step=2))


def fail(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fails", [0, 1])
def test_what_one_rank_could_not_write_is_no_checkpoint(build: Compose, fails: int) -> None:
    composition = build()
    reason = "No space left|OSError"  # 0.19 logs the message, and passes on the type
    with pytest.raises(RankError, match=rf"step_00000002 could not be written.* rank {fails}: .*({reason})"):
        run_ranks(save_onto_a_full_disk, 2, composition, SHARED, fails, timeout_s=60)
    assert list(checkpoints(Path(composition.run.output_dir))) == [1]


# ---- of the distributed optimizer


def held_of(composition: Composition, layout: Layout) -> dict[str, int]:
    """Numbers that this rank would write or read, by key."""
    trainer = trainer_in(composition, layout)
    numbers: dict[str, int] = {}
    for part in optimizer_state(trainer.optimizer, trainer.models).values():
        numbers[part.key] = numbers.get(part.key, 0) + part.data.numel()
    return numbers


def test_no_rank_handles_the_moments_of_another(build: Compose) -> None:
    composition = build()
    (whole,) = run_ranks(held_of, 1, composition, ONE)
    ranks = run_ranks(held_of, 2, composition, SHARED)
    assert {key: sum(rank.get(key, 0) for rank in ranks) for key in whole} == whole
    assert max(sum(rank.values()) for rank in ranks) < 0.55 * sum(whole.values())


def test_a_layout_leaves_no_trace_in_the_record(build: Compose) -> None:
    composition, registry = build(), Registry.discover()
    numbers = numbers_of(composition, TrainingData(composition, registry))
    for layout in (ALL, OVERLAPPED, ENCODER_SPLIT):
        moved = replace(composition, run=layout.settings(composition.run))
        assert numbers_of(moved, TrainingData(moved, registry)) == numbers and model_of(moved) == model_of(composition)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_position_in_the_data_is_the_step(build: Compose, size: int) -> None:
    """Whatever number of data-parallel ranks goes on: a step's samples, and their order, are those of an uninterrupted run."""
    data = TrainingData(build(images=True), Registry.discover())
    whole = list(data.stream(0))
    streams = [data.stream(SAVED_AT, rank=rank, size=size) for rank in range(size)]
    for step in range(SAVED_AT, len(whole)):
        assert tokens(batch for stream in streams for batch in next(stream).batches) == tokens(whole[step].batches)


def tokens(batches: Iterable[Batch]) -> list[Any]:
    return [batch.token_ids_bs.tolist() for batch in batches]
