"""Greedy decoding: the likeliest token, one after another, until the answer ends.

Prompts go through the same collation and the same model as training. Items are encoded once; the language model reads the whole growing
sequence again for every new token, because it has no key-value cache yet. Padding is on the right, where causal attention does not
see it, so an answer does not depend on what else is in the batch.

All ranks that share a model decode the same prompts together. The first pipeline stage encodes items, the last one has logits, and every
stage is told the tokens that were chosen: each reads them as the next input, or at least how long the sequence is.

Shapes: b prompts, s tokens of the longest prompt and the longest answer, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, distributed

from loongforge_core.data.collate import collate
from loongforge_core.data.conversations import Conversation
from loongforge_core.data.sample import Sample, SampleMaker
from loongforge_core.layers.interfaces import Features
from loongforge_core.model.batch import Batch
from loongforge_core.model.combination import OmniCombinationModel

__all__ = ["GreedyDecoder", "device_of", "groups_of", "place_among_replicas"]


@dataclass(frozen=True)
class GreedyDecoder:
    """Answers questions with a model and what turns its conversations into tokens."""

    maker: SampleMaker
    model: OmniCombinationModel
    max_new_tokens: int = 32

    def answer(self, questions: Sequence[Conversation]) -> list[str]:
        """The text that the model answers to each question, a conversation whose last turn is the user's.

        Raises DataError for one that cannot be rendered, or whose items cannot be opened.
        """
        return self.answer_prompts([self.maker.prompt(question) for question in questions])

    def answer_prompts(self, prompts: Sequence[Sample]) -> list[str]:
        """As `answer`, for prompts that are tokens already."""
        tokenizer = self.maker.template.tokenizer
        stop = self.maker.template.stop_token_ids
        return [tokenizer.decode(answer, skip_special_tokens=True) for answer in self.decode(prompts, stop)]

    def decode(self, prompts: Sequence[Sample], stop: Collection[int]) -> list[list[int]]:
        """Each prompt's new tokens, without the one of `stop` that ended them; at most `max_new_tokens`."""
        batch = collate([self._with_room(prompt) for prompt in prompts]).to(device_of(self.model))
        answers: list[list[int]] = [[] for _ in prompts]
        lengths = [len(prompt) for prompt in prompts]
        open_rows = list(range(len(prompts)))
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            encoded = self.model.encode(batch) if batch.items and self.model.encoder else {}
            for _ in range(self.max_new_tokens):
                tokens = next_tokens(self.model, first_columns(batch, max(lengths)), encoded, lengths)
                open_rows = [row for row in open_rows if tokens[row] not in stop]
                if not open_rows:
                    break
                for row in open_rows:
                    answers[row].append(tokens[row])
                    batch.token_ids_bs[row, lengths[row]] = tokens[row]
                    lengths[row] += 1
        self.model.train(was_training)
        return answers

    def _with_room(self, prompt: Sample) -> Sample:
        """The prompt with empty places behind it, whose positions are those that an answer's tokens have."""
        room = self.max_new_tokens
        return replace(
            prompt,
            token_ids=np.pad(prompt.token_ids, (0, room)),
            labels=np.pad(prompt.labels, (0, room)),
            loss_mask=np.pad(prompt.loss_mask, (0, room)),
            position_ids=self.maker.composition.recipe_config.position_ids(len(prompt) + room, prompt.spans),
        )


def next_tokens(model: OmniCombinationModel, batch: Batch, encoded: Mapping[str, Features], lengths: Sequence[int]) -> list[int]:
    """The likeliest token after the first `lengths[i]` tokens of each row, on every stage of the pipeline."""
    device = batch.token_ids_bs.device
    last_b = torch.tensor(lengths, device=device) - 1

    def choose(logits_bsv: Tensor, *, non_loss_data: bool) -> Tensor:  # as Megatron's schedules call it
        return logits_bsv[torch.arange(len(lengths), device=device), last_b].argmax(dim=-1)

    reports: list[Tensor] = get_forward_backward_func()(
        forward_step_func=lambda _, stage: (stage(batch, with_labels=False, encoded=encoded), choose),
        data_iterator=None,
        model=model,
        num_microbatches=1,
        seq_length=batch.token_ids_bs.shape[1],
        micro_batch_size=batch.num_rows,
        forward_only=True,
        collect_non_loss_data=True,
    )
    chosen_b = reports[0] if reports else torch.empty_like(last_b)
    stages = groups_of(model).pp
    if stages.size() > 1:
        distributed.broadcast(chosen_b, group=stages, group_src=stages.size() - 1)
    chosen: list[int] = chosen_b.tolist()
    return chosen


def first_columns(batch: Batch, length: int) -> Batch:
    """The batch without the columns that nothing has been written to; a view, where items stand stays as it is."""
    return replace(
        batch,
        token_ids_bs=batch.token_ids_bs[:, :length],
        labels_bs=batch.labels_bs[:, :length],
        loss_mask_bs=batch.loss_mask_bs[:, :length],
        position_ids=batch.position_ids[..., :length],
        padding_mask_bs=None,
    )


def groups_of(model: OmniCombinationModel) -> ProcessGroupCollection:
    """The language model's."""
    assert model.foundation is not None
    return model.foundation.context.groups


def place_among_replicas(model: OmniCombinationModel) -> tuple[int, int]:
    """This rank's number among those that share samples, and how many they are; alone where they share experts, for which each would wait
    until the others come to one."""
    groups = groups_of(model)
    return (groups.dp.rank(), groups.dp.size()) if groups.ep.size() == 1 else (0, 1)


def device_of(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device
