"""Every layout gives the answers of one process, on every rank and in the order of the questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import models
import pytest
import torch
from torch import distributed

from loongforge_core.config.check import load_composition
from loongforge_core.data.conversations import Conversation
from loongforge_core.data.training_data import load_sample_maker
from loongforge_core.generate.evaluate import Prediction, answer_questions
from loongforge_core.generate.greedy import GreedyDecoder, next_tokens
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry import Registry
from loongforge_core.testing.layouts import Layout, trainer_in

LAYOUTS = [
    Layout(data=2),
    Layout(tensor=2),
    Layout(tensor=2, sequence_parallel=True, encoders={"image_encoder": 2}),
    Layout(pipeline=2),
    Layout(pipeline=2, encoder_stage=True),
    Layout(pipeline=3, encoder_stage=True, tensor=2, sequence_parallel=True),
    Layout(data=2, tensor=2, pipeline=2),
]


EXPERTS = [
    "model.foundation.type=qwen3_moe",
    *(f"+model.foundation.{field}" for field in ("num_moe_experts=4", "moe_ffn_hidden_size=24", "moe_router_topk=2")),
]


def predictions_in(
    layout: Layout, questions: Sequence[Conversation], overrides: Sequence[str] = ()
) -> tuple[list[Prediction], list[int], int]:
    """What this rank comes to with the weights that the seed gives, what it told of its progress, and the images it encoded."""
    registry = Registry.discover()
    composition = load_composition("digits", ["train.seed=5", *overrides], registry=registry)
    composition = replace(composition, run=layout.settings(composition.run))
    initialise_groups(composition.run.parallel, seed=1)
    model = OmniModelProvider(composition=composition, registry=registry)()
    told: list[int] = []
    encoded: list[int] = []
    if model.encoder is not None:
        model.encoder.slots["image_encoder"].register_forward_hook(lambda module, inputs, output: encoded.append(len(inputs[0])))
    decoder = GreedyDecoder(load_sample_maker(composition, registry), model, max_new_tokens=6)
    predictions = answer_questions(decoder, questions, batch_size=2, progress=told.append)
    distributed.barrier()
    return predictions, told, sum(encoded)


@pytest.fixture(scope="module")
def alone(conversations: list[Conversation]) -> list[Prediction]:
    ((predictions, _, encoded),) = run_ranks(predictions_in, 1, Layout(), conversations)
    assert len({one.answer for one in predictions}) > 3, "answers that tell nothing apart"
    assert encoded == sum(len(each.items) for each in conversations)
    return predictions


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_answers_are_those_of_one_process(layout: Layout, alone: list[Prediction], conversations: list[Conversation]) -> None:
    ranks = run_ranks(predictions_in, layout.world_size, layout, conversations)
    assert [predictions for predictions, _, _ in ranks] == [alone] * layout.world_size
    first_stage = ranks[: layout.world_size // layout.pipeline]
    items = sum(len(each.items) for each in conversations)
    assert sum(encoded for _, _, encoded in first_stage) == items * layout.tensor, "every replica's part of the questions, once"
    assert sum(encoded for _, _, encoded in ranks) == items * layout.tensor, "later stages encode nothing"


@pytest.mark.parametrize("layout", [Layout(data=2, expert=2), Layout(tensor=2, sequence_parallel=True, expert=2, expert_tensor=1)], ids=str)
def test_ranks_that_share_experts_answer_together(layout: Layout, conversations: list[Conversation]) -> None:
    """Answers are of unequal lengths: a rank that had its own questions would wait for the others' experts."""
    ((alone, _, _),) = run_ranks(predictions_in, 1, Layout(), conversations, EXPERTS)
    assert len({len(one.answer) for one in alone}) > 1
    ranks = run_ranks(predictions_in, layout.world_size, layout, conversations, EXPERTS, timeout_s=60)
    assert [predictions for predictions, _, _ in ranks] == [alone] * layout.world_size


def test_fewer_questions_than_replicas(alone: list[Prediction], conversations: list[Conversation]) -> None:
    ranks = run_ranks(predictions_in, 4, Layout(data=4), conversations[:2])
    assert [predictions for predictions, _, _ in ranks] == [alone[:2]] * 4
    assert [len(told) for _, told, _ in ranks] == [1, 1, 0, 0]


def tokens_in(layout: Layout) -> list[list[int]]:
    """The next token of every sample of a few micro-batches, of a model with levels and an odd vocabulary."""
    (model,) = trainer_in(models.levels(tied=True, freeze=False), layout).models
    model.eval()
    chosen = []
    with torch.no_grad():
        for batch in (batch for step in models.batches("image") for batch in step):
            encoded = model.encode(batch) if batch.items and model.encoder else {}
            chosen.append(next_tokens(model, batch, encoded, [batch.token_ids_bs.shape[1]] * batch.num_samples))
    return chosen


@pytest.mark.parametrize(
    "layout", [Layout(pipeline=4), Layout(pipeline=2, tensor=2, sequence_parallel=True), Layout(pipeline=3, encoder_stage=True)], ids=str
)
def test_levels_and_a_padded_vocabulary(layout: Layout) -> None:
    (alone,) = run_ranks(tokens_in, 1, Layout())
    assert len({token for tokens in alone for token in tokens}) > 5
    assert run_ranks(tokens_in, layout.world_size, layout) == [alone] * layout.world_size
