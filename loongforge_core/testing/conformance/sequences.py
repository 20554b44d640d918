"""What a language model makes of tokens: samples do not see each other, tokens not what is behind them, and the loss is what it says.

Shapes: s sequence, b batch, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from loongforge_core.testing.conformance.subject import Subject
from loongforge_core.testing.conformance.trials import LENGTHS, built, difference, sequences

__all__ = ["causality", "leak", "loss"]

TOLERANCE = 1e-4

PADDING = 5
"""Rows that pad the vocabulary."""


def logits_of(component: Any, tensors: Mapping[str, Tensor], labels_bs: Tensor | None = None) -> Tensor:
    output: Tensor = component(
        component.embed(tensors["token_ids"]),
        tensors["position_ids"],
        token_ids_bs=tensors["token_ids"],
        labels_bs=labels_bs,
        padding_mask_bs=tensors["padding_mask"],
    )
    return output


def other_tokens(tensors: Mapping[str, Tensor], sample: slice, tokens: slice, vocabulary: int) -> dict[str, Tensor]:
    token_ids_bs = tensors["token_ids"].clone()
    token_ids_bs[sample, tokens] = (token_ids_bs[sample, tokens] + 1) % vocabulary
    return {**tensors, "token_ids": token_ids_bs}


def leak(subject: Subject) -> Iterator[str]:
    tensors = sequences(subject)
    with built(subject) as component, torch.no_grad():
        before = logits_of(component, tensors)
        for sample in range(len(LENGTHS)):
            changed = other_tokens(tensors, slice(sample, sample + 1), slice(None), subject.config.vocab_size)
            after = logits_of(component, changed)
            for other in (each for each in range(len(LENGTHS)) if each != sample):
                worst = difference(after[other, : LENGTHS[other]], before[other, : LENGTHS[other]])
                if worst > TOLERANCE:
                    yield f"the logits of sample {other + 1} change by {worst:.2g} where the tokens of sample {sample + 1} change"


def causality(subject: Subject) -> Iterator[str]:
    tensors = sequences(subject)
    with built(subject) as component, torch.no_grad():
        before = logits_of(component, tensors)
        for first in (1, LENGTHS[0] // 2, LENGTHS[0] - 1):
            after = logits_of(component, other_tokens(tensors, slice(0, 1), slice(first, None), subject.config.vocab_size))
            if (worst := difference(after[0, :first], before[0, :first])) > TOLERANCE:
                yield f"logits of tokens before number {first + 1} change by {worst:.2g} where tokens from number {first + 1} on change"
            if difference(after[0, first:], before[0, first:]) < TOLERANCE:
                yield f"logits from token {first + 1} on do not change with their own tokens"


def loss(subject: Subject) -> Iterator[str]:
    tensors, rows = sequences(subject), subject.config.vocab_size
    real_bs = ~tensors["padding_mask"]
    labels_bs = tensors["token_ids"].roll(-1, 1)
    with built(subject, padded_vocab_size=rows + PADDING) as component, torch.no_grad():
        logits_bsv, losses_bs = logits_of(component, tensors), logits_of(component, tensors, labels_bs)
    if logits_bsv.shape[-1] != rows + PADDING:
        yield f"logits are {logits_bsv.shape[-1]} wide, expected {rows + PADDING}: `context.padded_vocab_size` rows"
        return
    if not (logits_bsv[..., rows:] < logits_bsv[..., :rows].min() - 100).all():
        yield f"rows {rows} to {rows + PADDING - 1}, which only pad the vocabulary, have logits that take part in the loss"
    if losses_bs.dtype != torch.float32 or losses_bs.shape != labels_bs.shape:
        yield f"the loss is {losses_bs.dtype} {list(losses_bs.shape)}, expected torch.float32 {list(labels_bs.shape)}"
        return
    expected_bs = F.cross_entropy(logits_bsv[..., :rows].float().transpose(1, 2), labels_bs, reduction="none")
    if (worst := difference(losses_bs[real_bs], expected_bs[real_bs])) > TOLERANCE:
        yield f"losses differ by {worst:.2g} from the cross entropy of the logits with the labels of the same places"
