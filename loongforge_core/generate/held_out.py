"""The loss on a held-out file: what training minimises, of samples that it does not see. In every layout the same (I1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, distributed

from loongforge_core.data.collate import collate
from loongforge_core.data.conversations import Conversation, ConversationFiles
from loongforge_core.data.sample import SampleMaker
from loongforge_core.generate.evaluate import rounds
from loongforge_core.generate.greedy import device_of, groups_of, place_among_replicas
from loongforge_core.model.batch import Batch
from loongforge_core.model.combination import OmniCombinationModel

__all__ = ["held_out_loss"]

BATCHES_TOGETHER = 16
"""That go through the stages of a pipeline one behind another."""


def held_out_loss(
    maker: SampleMaker,
    model: OmniCombinationModel,
    conversations: ConversationFiles | Sequence[Conversation],
    *,
    batch_size: int,
    between: Callable[[], None] = lambda: None,
) -> float:
    """Mean over the target tokens of all conversations, on every rank, which all call it; data-parallel replicas share them.

    Nothing is distorted, and dropout is off. The model is left as it was. `between` is called now and then, on every rank as often, and may
    end it by raising.
    """
    groups, (rank, size) = groups_of(model), place_among_replicas(model)
    share = range(rank, len(conversations), size)
    total = torch.zeros(2, dtype=torch.float64, device=device_of(model))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for start, most in rounds(len(conversations), size, batch_size * BATCHES_TOGETHER):
                between()
                if batches := batches_of(
                    maker, conversations, share[start : start + most], batch_size
                ):  # another replica may have one more
                    for report in reports(model, batches):
                        total += report
    finally:
        model.train(was_training)
    if groups.tp.rank() or (size == 1 and groups.dp.rank()):  # who has the same as another
        total.zero_()
    distributed.all_reduce(total)
    loss, tokens = total.tolist()
    return float(loss / tokens)


def batches_of(
    maker: SampleMaker, conversations: ConversationFiles | Sequence[Conversation], numbers: Sequence[int], size: int
) -> list[Batch]:
    parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return [collate([maker.sample(conversations[number]) for number in part]) for part in parts]


def reports(model: OmniCombinationModel, batches: Sequence[Batch]) -> list[Tensor]:
    """Sum of the loss and number of target tokens of each batch, on the last pipeline stage."""
    found: list[Tensor] = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter([batch.to(device_of(model)) for batch in batches]),
        model=model,
        num_microbatches=len(batches),
        # Not used: every batch says how long it is (`variable_seq_lengths`).
        seq_length=batches[0].token_ids_bs.shape[1],
        micro_batch_size=batches[0].num_rows,
        forward_only=True,
        collect_non_loss_data=True,
    )
    return found


def forward_step(batches: Iterator[Batch], stage: OmniCombinationModel) -> tuple[Tensor, object]:
    """As Megatron's schedules ask for it."""
    batch = next(batches)

    def measure(token_losses_bs: Tensor, *, non_loss_data: bool) -> Tensor:
        return torch.stack([each.double() for each in stage.recipe.loss(token_losses_bs, batch.loss_mask_bs)])

    return stage(batch), measure
