"""A layout that cannot be run is refused before a process starts, with the arithmetic and the nearest valid value; one that can is not."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from trees import LARGE, changed_at, messages_about

from loongforge_core.config.check import composition_from
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Registry

TENSOR, PIPELINE = "parallel.tensor_model_parallel_size", "parallel.pipeline_model_parallel_size"
ENCODER_STAGES = "parallel.encoder_pipeline_model_parallel_size"
FIRST, LAST = "parallel.num_layers_in_first_pipeline_stage", "parallel.num_layers_in_last_pipeline_stage"
IMAGE, AUDIO = "parallel.image_encoder", "parallel.audio_encoder"
GLOBAL, MICRO = "train.global_batch_size", "train.micro_batch_size"
LAYERS, HEADS, VOCABULARY = "model.foundation.num_layers", "model.foundation.num_attention_heads", "model.foundation.vocab_size"
WORLD = "processes"

Changes = Mapping[str, Any]


def tree(changes: Changes) -> dict[str, Any]:
    """LARGE, changed. The pseudo-key `processes` is the world size, and no part of it; without it, that is unknown."""
    return changed_at(LARGE, {key: value for key, value in changes.items() if key != WORLD})


def said_of(registry: Registry, changes: Changes) -> dict[str, str]:
    return messages_about(tree(changes), registry, world_size=changes.get(WORLD))


@dataclass(frozen=True)
class Bad:
    """One wrong thing, where it is said, its arithmetic, and the ways out that are named."""

    changes: Changes
    key: str
    arithmetic: str
    nearest: Changes = field(default_factory=dict)


BAD = {
    # the language model over tensor ranks
    "heads": Bad({TENSOR: 5}, TENSOR, "num_attention_heads 12 does not divide by 5: 12 = 2 x 5 + 2", {TENSOR: 4}),
    "more ranks than heads": Bad({TENSOR: 16}, TENSOR, "num_attention_heads 12 does not divide by 16: 12 = 0 x 16 + 12", {TENSOR: 12}),
    "a prime": Bad({TENSOR: 2, HEADS: 7}, TENSOR, "num_attention_heads 7 does not divide by 2: 7 = 3 x 2 + 1", {TENSOR: 1}),
    "beyond every number of processes": Bad({TENSOR: 10**12}, TENSOR, "12 = 0 x 1000000000000 + 12", {TENSOR: 12}),
    "vocabulary": Bad(
        {TENSOR: 4, VOCABULARY: 5},
        TENSOR,
        "vocab_size 5 of the foundation, cut into 2 rows each, leaves none for 1 of 4 ranks: 3 x 2 >= 5",
        {TENSOR: 3},
    ),
    "a vocabulary of one row": Bad(
        {TENSOR: 3, VOCABULARY: 1}, TENSOR, "cut into 1 row each, leaves none for 2 of 3 ranks: 1 x 1 >= 1", {TENSOR: 1}
    ),
    "a language model that cannot be split": Bad(
        {TENSOR: 2, "model.foundation": {"type": "deaf_brain", "hidden_size": 24}, "model.audio_encoder": None},
        TENSOR,
        "foundation (deaf_brain): it is not made to be split, and each of 2 ranks would hold all of it",
        {TENSOR: 1},
    ),
    "sequence parallelism": Bad({"parallel.sequence_parallel": True}, "parallel.sequence_parallel", "tensor_model_parallel_size is 1"),
    "context parallelism": Bad(
        {"parallel.context_parallel_size": 2}, "parallel.context_parallel_size", "is not there yet", {"parallel.context_parallel_size": 1}
    ),
    "experts where there are none": Bad(
        {"parallel.expert_model_parallel_size": 2, WORLD: 4},
        "parallel.expert_model_parallel_size",
        "foundation (brain): it has no experts that ranks could share",
        {"parallel.expert_model_parallel_size": 1},
    ),
    # encoders over tensor ranks
    "no divisor": Bad(
        {TENSOR: 4, AUDIO: {"layout": "tensor", "tensor_model_parallel_size": 3}},
        f"{AUDIO}.tensor_model_parallel_size",
        "3 is no divisor of the language model's tensor_model_parallel_size 4: 4 = 1 x 3 + 1",
        {f"{AUDIO}.tensor_model_parallel_size": 2},
    ),
    "above the language model's": Bad(
        {TENSOR: 2, AUDIO: {"layout": "tensor", "tensor_model_parallel_size": 6}},
        f"{AUDIO}.tensor_model_parallel_size",
        "6 is no divisor of the language model's tensor_model_parallel_size 2: 2 = 0 x 6 + 2",
        {f"{AUDIO}.tensor_model_parallel_size": 2},
    ),
    "an encoder's own numbers": Bad(
        {
            TENSOR: 4,
            AUDIO: {"layout": "tensor"},
            "model.audio_encoder.width": 6,
            "model.foundation.hidden_size": 6,
            "model.image_encoder": None,
        },
        f"{AUDIO}.tensor_model_parallel_size",
        "audio_encoder (ear): width 6 does not divide by 4: 6 = 1 x 4 + 2",
        {f"{AUDIO}.tensor_model_parallel_size": 2},
    ),
    "an encoder that cannot be split": Bad(
        {TENSOR: 2, IMAGE: {"layout": "tensor"}},
        f"{IMAGE}.tensor_model_parallel_size",
        "image_encoder (eye): it is not made to be split, and each of 2 ranks would hold all of it",
        {f"{IMAGE}.tensor_model_parallel_size": 1},
    ),
    "a size for what is replicated": Bad(
        {TENSOR: 2, IMAGE: {"tensor_model_parallel_size": 2}},
        f"{IMAGE}.tensor_model_parallel_size",
        "layout `replicate` has tensor size 1",
        {f"{IMAGE}.tensor_model_parallel_size": 1},
    ),
    # layers over stages
    "layers": Bad(
        {PIPELINE: 5}, PIPELINE, "num_layers 12 of the foundation for 5 stages, which share equally: 12 = 2 x 5 + 2", {PIPELINE: 4, LAST: 4}
    ),
    "layers, few": Bad({PIPELINE: 2, LAYERS: 3}, PIPELINE, "3 = 1 x 2 + 1", {PIPELINE: 1, LAST: 1}),
    "more stages than layers": Bad(
        {PIPELINE: 16}, PIPELINE, "num_layers 12 of the foundation for 16 stages, where each needs one at least: 12 < 16", {PIPELINE: 12}
    ),
    "more stages than layers behind the encoders'": Bad(
        {PIPELINE: 16, ENCODER_STAGES: 1}, PIPELINE, "for 15 stages, where each needs one at least: 12 < 15", {PIPELINE: 13}
    ),
    "the first stage takes too much": Bad(
        {PIPELINE: 3, FIRST: 11},
        FIRST,
        "11 of num_layers 12 of the foundation, given to the stages at the ends, leave 1 for 2 other stages",
        {FIRST: 10, PIPELINE: 2},
    ),
    "the last stage takes all": Bad(
        {PIPELINE: 2, LAST: 12}, LAST, "leave 0 for 1 other stage, where each needs one at least: 0 < 1", {LAST: 11}
    ),
    "more than there is": Bad({PIPELINE: 2, LAST: 13}, LAST, "leave -1 for 1 other stage", {LAST: 11}),
    "the rest does not divide": Bad(
        {PIPELINE: 3, FIRST: 3}, FIRST, "leave 9 for 2 other stages, which share equally: 9 = 4 x 2 + 1", {FIRST: 2, PIPELINE: 2}
    ),
    "both ends leave too little": Bad(
        {PIPELINE: 4, FIRST: 6, LAST: 5},
        FIRST,
        "6 + 5 of num_layers 12 of the foundation, given to the stages at the ends, leave 1 for 2",
        {FIRST: 5, LAST: 4, PIPELINE: 3},
    ),
    "both ends leave too much": Bad(
        {PIPELINE: 2, FIRST: 4, LAST: 7}, FIRST, "leave 1, and there is no other stage; expected 0", {FIRST: 5, LAST: 8, PIPELINE: 3}
    ),
    "the first of one stage": Bad({FIRST: 3}, FIRST, "pipeline_model_parallel_size is 1"),
    "the last of one stage": Bad({LAST: 12}, LAST, "pipeline_model_parallel_size is 1"),
    "stages without a language model": Bad(
        {PIPELINE: 2, "model.foundation": None, "model.audio_encoder": None}, PIPELINE, "the model has no foundation", {PIPELINE: 1}
    ),
    # the encoders' stage
    "two stages of encoders": Bad(
        {PIPELINE: 4, ENCODER_STAGES: 2}, ENCODER_STAGES, "more than one stage of encoders is not there yet", {ENCODER_STAGES: 1}
    ),
    "two stages of encoders in one": Bad({ENCODER_STAGES: 2}, ENCODER_STAGES, "not there yet", {ENCODER_STAGES: 0}),
    "no other stage": Bad({ENCODER_STAGES: 1}, ENCODER_STAGES, "1 - 1 = 0 stages for decoder layers", {ENCODER_STAGES: 0, PIPELINE: 2}),
    "no encoder to hold": Bad(
        {PIPELINE: 2, ENCODER_STAGES: 1, "model.image_encoder": None, "model.audio_encoder": None},
        ENCODER_STAGES,
        "the model has no encoder that this stage could hold",
        {ENCODER_STAGES: 0},
    ),
    "layers in the encoders' stage": Bad({PIPELINE: 3, ENCODER_STAGES: 1, FIRST: 2}, FIRST, "the first stage is the encoders'"),
    "the last stage behind the encoders'": Bad(
        {PIPELINE: 2, ENCODER_STAGES: 1, LAST: 5}, LAST, "leave 7, and there is no other stage; expected 0", {LAST: 12, PIPELINE: 3}
    ),
    # the optimizer
    "overlap of what is not split": Bad(
        {"parallel.overlap_param_gather": True, "parallel.overlap_grad_reduce": True},
        "parallel.overlap_param_gather",
        "needs use_distributed_optimizer: true beside it",
    ),
    "overlap of one half": Bad(
        {"parallel.overlap_param_gather": True, "parallel.use_distributed_optimizer": True},
        "parallel.overlap_param_gather",
        "needs overlap_grad_reduce: true beside it",
    ),
    # processes
    "too few processes": Bad(
        {TENSOR: 2, WORLD: 1}, TENSOR, "tensor_model_parallel_size 2 = 2 processes, and the world size 1", {TENSOR: 1, WORLD: 2}
    ),
    "an odd number": Bad(
        {TENSOR: 2, PIPELINE: 2, WORLD: 6},
        TENSOR,
        "tensor_model_parallel_size 2 x pipeline_model_parallel_size 2 = 4 processes, and the world size 6 is no multiple of 4",
        {TENSOR: 1, WORLD: 4},
    ),
    "far too many": Bad(
        {PIPELINE: 12, WORLD: 8}, PIPELINE, "pipeline_model_parallel_size 12 = 12 processes, and the world size 8", {PIPELINE: 4, WORLD: 12}
    ),
    # batches
    "micro-batches": Bad({MICRO: 5}, GLOBAL, "24 is no multiple of micro_batch_size 5 = 5", {GLOBAL: 25, MICRO: 4}),
    "replicas": Bad(
        {MICRO: 8, WORLD: 2}, GLOBAL, "24 is no multiple of micro_batch_size 8 x 2 data-parallel replicas = 16", {GLOBAL: 16, MICRO: 6}
    ),
    "more replicas than samples": Bad({WORLD: 36}, GLOBAL, "micro_batch_size 1 x 36 data-parallel replicas = 36", {GLOBAL: 36}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_cannot_be_run_is_refused(registry: Registry, bad: Bad) -> None:
    ((key, message),) = said_of(registry, bad.changes).items()
    assert key == bad.key
    assert bad.arithmetic in message
    assert dict(named_as_valid(key, message)) == dict(bad.nearest)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_every_value_that_is_named_is_accepted(registry: Registry, bad: Bad) -> None:
    ((key, message),) = said_of(registry, bad.changes).items()
    for named, value in named_as_valid(key, message):
        assert said_of(registry, {**bad.changes, **written(bad.changes, named, value)}) == {}


def drawn(draw: random.Random) -> Changes:
    """Several settings at once, small, large and absurd."""

    def size() -> int:
        return draw.choice([1, 1, 2, 2, 3, 4, 5, 6, 8, 12, 13, 24, 100, 5000, 10**9])

    split = {"layout": "tensor", "tensor_model_parallel_size": size()}
    possible: dict[str, Any] = {
        **{key: size() for key in (TENSOR, PIPELINE, FIRST, LAST, WORLD, GLOBAL, MICRO, VOCABULARY, HEADS)},
        ENCODER_STAGES: draw.choice([1, 1, 2]),
        AUDIO: draw.choice([{"layout": "tensor"}, split, {"tensor_model_parallel_size": size()}]),
        LAYERS: 1 + size(),  # the audio encoder emits two levels
    }
    return {key: value for key, value in possible.items() if draw.random() < 0.4}


def test_every_value_that_is_named_of_drawn_settings_mends_its_key(registry: Registry) -> None:
    draw, named_values = random.Random(11), 0
    for _ in range(400):
        changes = drawn(draw)
        said = said_of(registry, changes)
        for key, message in said.items():
            for named, value in named_as_valid(key, message):
                named_values += 1
                after = said_of(registry, {**changes, **written(changes, named, value)})
                new = {other: text for other, text in after.items() if other not in said or other == key}
                follows = "is no multiple of"  # processes or batch, which must be adapted then
                assert all(follows in text for text in new.values()), f"{changes}: {message}, but then: {new}"
    assert named_values > 400


def test_a_value_is_named_although_processes_or_batch_must_follow(registry: Registry) -> None:
    stages = said_of(registry, {PIPELINE: 5, WORLD: 5})[PIPELINE]
    assert stages.endswith("12 = 2 x 5 + 2; nearest valid: 4, or parallel.num_layers_in_last_pipeline_stage 4")
    ranks = said_of(registry, {TENSOR: 8, WORLD: 14, MICRO: 24})[TENSOR]
    assert ranks.endswith("the world size 14 is no multiple of 8; nearest valid: 2"), "7 copies, of which each needs a micro-batch"


def named_as_valid(key: str, message: str) -> Iterator[tuple[str, int]]:
    """Of `; nearest valid: 2, or train.micro_batch_size 4, or 8 processes`: key and value of each."""
    _, found, named = message.partition("; nearest valid: ")
    for way in named.split(", or ") if found else ():
        processes, number = re.fullmatch(r"(\d+) processes", way), re.fullmatch(r"(?:(\S+) )?(\d+)", way)
        if processes:
            yield WORLD, int(processes[1])
        else:
            assert number, way
            yield number[1] or key, int(number[2])


def written(changes: Changes, key: str, value: int) -> Changes:
    """Into a section that the changes have already, where they have it."""
    section, _, name = key.rpartition(".")
    return {section: {**changes[section], name: value}} if section in changes else {key: value}


GOOD: dict[str, Changes] = {
    "one process": {WORLD: 1},
    "tensor": {TENSOR: 12, WORLD: 12},
    "a vocabulary that is padded": {TENSOR: 3, VOCABULARY: 100},
    "a row for each rank": {TENSOR: 4, VOCABULARY: 4},
    "sequence parallelism": {TENSOR: 2, "parallel.sequence_parallel": True},
    "everything": {TENSOR: 2, PIPELINE: 2, WORLD: 8, "parallel.sequence_parallel": True, "parallel.use_distributed_optimizer": True},
    "any number of processes": {TENSOR: 2, PIPELINE: 4},
    "an encoder on as many ranks": {TENSOR: 4, AUDIO: {"layout": "tensor"}},
    "an encoder on fewer": {TENSOR: 4, AUDIO: {"layout": "tensor", "tensor_model_parallel_size": 2}},
    "an encoder that cannot be split, whole": {TENSOR: 4, IMAGE: {"layout": "tensor", "tensor_model_parallel_size": 1}},
    "what is replicated has size 1": {TENSOR: 4, IMAGE: {"layout": "replicate", "tensor_model_parallel_size": 1}},
    "a stage for each layer": {PIPELINE: 12},
    "uneven": {PIPELINE: 3, FIRST: 2, LAST: 4},
    "uneven, two stages": {PIPELINE: 2, FIRST: 2, LAST: 10},
    "uneven first": {PIPELINE: 3, FIRST: 4},
    "the encoders' stage": {PIPELINE: 2, ENCODER_STAGES: 1},
    "the encoders' stage, layers that do not divide": {PIPELINE: 6, ENCODER_STAGES: 1},
    "the encoders' stage, and a last one": {PIPELINE: 4, ENCODER_STAGES: 1, LAST: 1},
    "the encoders' stage, and a last one with all": {PIPELINE: 2, ENCODER_STAGES: 1, LAST: 12},
    "split optimizer": {"parallel.use_distributed_optimizer": True, WORLD: 1},
    "overlap": {f"parallel.{name}": True for name in ("use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather")},
    "overlap of gradients alone": {"parallel.overlap_grad_reduce": True},
    "no language model": {TENSOR: 2, "model.foundation": None, "model.audio_encoder": None, WORLD: 4},
    "replicas": {TENSOR: 2, WORLD: 8, MICRO: 6},
}


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD)
def test_what_can_be_run_is_not(registry: Registry, changes: Changes) -> None:
    assert said_of(registry, changes) == {}


def test_all_is_said_at_once_and_nothing_that_only_follows(registry: Registry) -> None:
    wrong = {
        TENSOR: 5,
        AUDIO: {"layout": "tensor"},  # of the language model's size, which is the wrong one
        IMAGE: {"layout": "tensor", "tensor_model_parallel_size": 2},  # a divisor of 5 it need not be
        PIPELINE: 5,
        "parallel.context_parallel_size": 2,
        WORLD: 7,
        MICRO: 5,
    }
    said = said_of(registry, wrong)
    assert set(said) == {TENSOR, PIPELINE, "parallel.context_parallel_size", f"{IMAGE}.tensor_model_parallel_size", GLOBAL}
    assert "no divisor" not in said[f"{IMAGE}.tensor_model_parallel_size"]
    both = said_of(registry, {TENSOR: 5, WORLD: 8})
    assert re.search(r"5: 12 = 2 x 5 \+ 2; .* no multiple of 5; nearest valid: 4$", both[TENSOR])


def test_the_batch_does_not_matter_where_nothing_is_trained(registry: Registry) -> None:
    composition_from(tree({MICRO: 5}), registry, world_size=7, purpose="other")
    with pytest.raises(ConfigError, match="the world size 7 is no multiple of 2"):
        composition_from(tree({MICRO: 5, TENSOR: 2}), registry, world_size=7, purpose="other")


def test_of_a_slot_that_is_wrong_itself_nothing_more_is_said(registry: Registry) -> None:
    assert set(said_of(registry, {"model.foundation.hidden_size": "wide", PIPELINE: 2, ENCODER_STAGES: 1, TENSOR: 5})) == {
        "model.foundation.hidden_size"
    }
    assert set(said_of(registry, {"model.image_encoder.width": "wide", "model.audio_encoder": None, PIPELINE: 2, ENCODER_STAGES: 1})) == {
        "model.image_encoder.width"
    }
