"""One training step: Megatron's schedule over the micro-batches, then its optimizer.

A step whose loss or gradient is not finite, or that has no target token, is not taken: weights, moments and the routers' biases stay as
they are. It counts as a step all the same, so that what step k sees, and its learning rate, follow from k.

Shapes: b rows, s tokens, n samples of this rank, c contents (see content.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch import Tensor, distributed

from loongforge_core.config.composition import Composition
from loongforge_core.errors import ConfigError, Issue
from loongforge_core.layers.experts import SequenceRouter
from loongforge_core.layers.interfaces import Recipe
from loongforge_core.model.batch import Batch
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.freeze import check_patterns
from loongforge_core.parallel.groups import component_groups, local_device
from loongforge_core.parallel.overlap import communicate_in_order
from loongforge_core.train.content import TEXT_ONLY, contents, sums_by_content, sums_by_sample
from loongforge_core.train.optimizer import (
    ParameterGroup,
    build_optimizer,
    build_scheduler,
    move_weights,
    parameter_groups,
    require_training,
    squared_norms,
)
from loongforge_core.train.result import NotFinite, StepResult, Sums

__all__ = ["Trainer", "build_trainer"]


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What a run consists of on this rank: the model, wrapped and bare, one part per virtual pipeline stage, and what moves it."""

    composition: Composition
    models: Sequence[OmniCombinationModel]
    chunks: Sequence[DistributedDataParallel]
    """The same, with gradient buffers and their reduction over data-parallel ranks."""
    parameter_groups: Sequence[ParameterGroup]
    routers: Sequence[SequenceRouter]
    """Of all layers with experts."""
    optimizer: Any
    scheduler: OptimizerParamScheduler
    groups: ProcessGroupCollection

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """Trains on this rank's micro-batches of the next global batch; what is not finite changes nothing, and is said in the result."""
        seed_step(self.composition.run.train.seed, self.scheduler.num_steps)
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        biases = [router.expert_bias for router in self.routers if router.expert_bias is not None]
        before = [bias.clone() for bias in biases]
        for router in self.routers:
            router.measured = None
        reports = self.forward_backward(batches)
        self.optimizer.prepare_grads()
        sums = self.sums(reports, batches)
        wrong = sums.not_finite if sums.tokens else None
        if sums.tokens and not wrong:
            move_weights(self.optimizer, grad_norm=sums.grad_norm, clip_grad=self.composition.run.train.clip_grad)
        else:
            for bias, value in zip(biases, before, strict=True):  # Megatron moves them with the gradients
                bias.copy_(value)
        not_finite = self.why_not(wrong, reports, batches) if wrong else None
        learning_rate = self.scheduler.get_lr({})
        self.scheduler.step(1)
        samples = sum(batch.num_samples for batch in batches) * self.groups.dp.size()
        return sums.result(learning_rate, samples, not_finite)

    def gather_weights(self) -> None:
        """Makes this rank's weights those after the last step, before anything but a training step reads them.

        With `overlap_param_gather`, they otherwise arrive during the next forward pass.
        """
        if self.composition.run.parallel.overlap_param_gather:
            for chunk in self.chunks:
                chunk.start_param_sync(force_sync=True)

    def forward_backward(self, batches: Sequence[Batch]) -> list[Tensor]:
        """Gradients of the mean loss over all target tokens; on the last pipeline stage, each micro-batch's report.

        A report is the sum of the loss and the number of target tokens, `[1 + n, 2]`: the recipe's, and then those of each sample.
        """
        device = next(self.models[0].parameters()).device
        batches = [batch.to(device) for batch in batches]
        iterators = [iter(batches) for _ in self.chunks]
        reports: list[Tensor] = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=list(self.chunks),
            num_microbatches=len(batches),
            # Not used: every micro-batch says how long it is (`variable_seq_lengths`).
            seq_length=self.composition.run.train.seq_length,
            micro_batch_size=batches[0].num_rows,
            forward_only=False,
        )
        return reports

    def sums(self, reports: Sequence[Tensor], batches: Sequence[Batch]) -> Sums:
        """Loss, target tokens and squared norms of the global batch; it is here that the host waits for the device, once in a step.

        All ranks add up what they have: the first tensor rank of the last stage its losses, every rank the gradients that it counts.
        """
        modalities, slots = self.composition.modalities, list(self.composition.slots)
        losses = torch.zeros(3 + len(modalities), 2, dtype=torch.float64, device=local_device())
        if self.composition.run.parallel.sequence_parallel or self.groups.tp.rank() == 0:  # else each tensor rank has the same
            for measured in (router.measured for router in self.routers if router.measured is not None):
                losses[-1, 0] += measured
                losses[-1, 1] += 1
        if reports and self.groups.tp.rank() == 0:
            contents_nc = torch.cat([contents(batch, modalities) for batch in batches]).to(losses.device)
            losses[0] = torch.stack([report[0] for report in reports]).sum(0)
            losses[1:-1] = sums_by_content(torch.cat([report[1:] for report in reports]), contents_nc)
        together = torch.cat((losses.flatten(), squared_norms(self.optimizer, slots)))
        distributed.all_reduce(together)
        numbers = together.tolist()
        pairs = list(zip(numbers[0 : losses.numel() : 2], numbers[1 : losses.numel() : 2], strict=True))
        (loss, tokens), *by_content, (router_loss, routers) = pairs
        return Sums(
            loss=loss,
            tokens=int(tokens),
            by_content=dict(zip((TEXT_ONLY, *modalities), by_content, strict=True)),
            router_loss=router_loss,
            routers=int(routers),
            squared_norms=dict(zip(slots, numbers[losses.numel() :], strict=True)),
        )

    def why_not(self, what: str, reports: Sequence[Tensor], batches: Sequence[Batch]) -> NotFinite:
        """With the samples' names, from all ranks, which call it together."""
        names = [name for batch in batches for name in batch.names or [f"sample {number}" for number in range(batch.num_samples)]]
        ours: list[tuple[str, bool]] = []
        if reports and self.groups.tp.rank() == 0:
            finite_n = torch.cat([report[1:, 0] for report in reports]).isfinite()
            ours = list(zip(names, finite_n.tolist(), strict=True))
        shares: list[list[tuple[str, bool]]] = [[]] * distributed.get_world_size()
        distributed.all_gather_object(shares, ours)
        together = [pair for share in shares for pair in share]
        guilty = tuple(name for name, is_finite in together if not is_finite)
        return NotFinite(what, guilty or tuple(name for name, _ in together), loss_is_finite=not guilty)


def seed_step(seed: int, step: int) -> None:
    """Random numbers of a step depend on nothing but its number: a resumed run draws the same ones, and a checkpoint holds none."""
    mixed = (seed * 1_000_003 + step) % 2**62
    torch.default_generator.manual_seed(mixed)
    model_parallel_cuda_manual_seed(mixed)


def forward_step(batches: Iterator[Batch], chunk: DistributedDataParallel) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """As Megatron's schedules ask for it: the model's output, and what makes a loss of it on the last stage."""
    batch = next(batches)
    return chunk(batch), partial(summed_loss, recipe=chunk.module.recipe, batch=batch)


def summed_loss(token_losses_bs: Tensor, *, recipe: Recipe[Any], batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the loss, the number of tokens that Megatron divides the gradient by in the end, and the report `[1 + n, 2]`."""
    loss_sum, tokens = recipe.loss(token_losses_bs, batch.loss_mask_bs)
    whole_12 = torch.stack([loss_sum.detach().double(), tokens.double()]).unsqueeze(0)
    return loss_sum, tokens.int(), torch.cat((whole_12, sums_by_sample(token_losses_bs, batch.loss_mask_bs, batch.lengths)))


def build_trainer(composition: Composition, models: Sequence[OmniCombinationModel]) -> Trainer:
    """Wraps models that have their initial weights. Raises ConfigError where there is nothing to train."""
    if composition.foundation is None:
        raise ConfigError(Issue("an encoder alone has no loss to train on: fill the slot foundation", "model"))
    train = composition.run.train
    groups = component_groups()
    check_patterns([model.components() for model in models], {name: slot.settings for name, slot in composition.slots.items()}, groups.pp)
    trained = parameter_groups(composition, models)
    require_training(composition, trained, groups.mp)
    parallel = composition.run.parallel
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        bucket_size=parallel.ddp_bucket_size,
    )
    for model in models:
        model.config.finalize_model_grads_func = finalize_model_grads
    chunks = [DistributedDataParallel(model.config, settings, model, disable_bucketing=index > 0) for index, model in enumerate(models)]
    for model, chunk in zip(models, chunks, strict=True):
        communicate_in_order(chunk, [] if model.encoder is None else model.encoder.parameters())
    optimizer = build_optimizer(trained, chunks, composition.run, dtype=models[0].config.params_dtype)
    return Trainer(
        composition=composition,
        models=models,
        chunks=chunks,
        parameter_groups=trained,
        routers=[module for model in models for module in model.modules() if isinstance(module, SequenceRouter)],
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, train),
        groups=groups,
    )
