"""One training step: Megatron's schedule over the micro-batches, then its optimizer.

Shapes: b samples, s tokens.
"""

from __future__ import annotations

import math
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
from loongforge_core.errors import ConfigError, Issue, LoongForgeError
from loongforge_core.layers.interfaces import Recipe
from loongforge_core.model.batch import Batch
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.freeze import check_patterns
from loongforge_core.parallel.groups import component_groups
from loongforge_core.parallel.overlap import communicate_in_order
from loongforge_core.train.optimizer import ParameterGroup, build_optimizer, build_scheduler, parameter_groups, require_training

__all__ = ["StepResult", "Trainer", "build_trainer"]


@dataclass(frozen=True)
class StepResult:
    """What a step was like, the same on every rank."""

    loss: float | None
    """Mean over the target tokens of the global batch; None where there is no target token, and then nothing was learned."""
    grad_norm: float | None
    """Before clipping."""
    learning_rate: float
    """That of `train.lr`; slots with their own are in proportion."""
    tokens: int
    """Target tokens of the global batch."""
    samples: int
    """Samples of the global batch."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What a run consists of on this rank: the model, wrapped and bare, one part per virtual pipeline stage, and what moves it."""

    composition: Composition
    models: Sequence[OmniCombinationModel]
    chunks: Sequence[DistributedDataParallel]
    """The same, with gradient buffers and their reduction over data-parallel ranks."""
    parameter_groups: Sequence[ParameterGroup]
    optimizer: Any
    scheduler: OptimizerParamScheduler
    groups: ProcessGroupCollection

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """Trains on this rank's micro-batches of the next global batch.

        Raises LoongForgeError, with no step taken, where the loss is not finite, and also after the step where the gradient was not.
        """
        number = self.scheduler.num_steps
        seed_step(self.composition.run.train.seed, number)
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        reports = self.forward_backward(batches)
        loss_sum, tokens = self.totals(reports)
        learning_rate = self.scheduler.get_lr({})
        loss = grad_norm = None
        if tokens:
            loss = loss_sum / tokens
            require_finite(loss, "loss", number + 1)
            _, grad_norm, _ = self.optimizer.step()
            require_finite(grad_norm, "gradient norm", number + 1)
        self.scheduler.step(1)
        samples = sum(batch.num_samples for batch in batches) * self.groups.dp.size()
        return StepResult(loss, grad_norm, learning_rate, tokens, samples)

    def gather_weights(self) -> None:
        """Makes this rank's weights those after the last step, before anything but a training step reads them.

        With `overlap_param_gather`, they otherwise arrive during the next forward pass.
        """
        if self.composition.run.parallel.overlap_param_gather:
            for chunk in self.chunks:
                chunk.start_param_sync(force_sync=True)

    def forward_backward(self, batches: Sequence[Batch]) -> list[Tensor]:
        """Gradients of the mean loss over all target tokens; sum of the loss and number of tokens `[2]` of each micro-batch."""
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

    def totals(self, reports: Sequence[Tensor]) -> tuple[float, int]:
        """Loss and target tokens of the global batch; only the last pipeline stage has reports of its own."""
        device = next(self.models[0].parameters()).device
        total = torch.stack(list(reports)).sum(0) if reports else torch.zeros(2, dtype=torch.float64, device=device)
        if self.groups.dp_cp.size() > 1:
            distributed.all_reduce(total, group=self.groups.dp_cp)
        if self.groups.pp.size() > 1:
            distributed.broadcast(total, group=self.groups.pp, group_src=self.groups.pp.size() - 1)
        loss_sum, tokens = total.tolist()
        return loss_sum, int(tokens)


def seed_step(seed: int, step: int) -> None:
    """Random numbers of a step depend on nothing but its number: a resumed run draws the same ones, and a checkpoint holds none."""
    mixed = (seed * 1_000_003 + step) % 2**62
    torch.default_generator.manual_seed(mixed)
    model_parallel_cuda_manual_seed(mixed)


def require_finite(value: float, what: str, step: int) -> None:
    if not math.isfinite(value):
        raise LoongForgeError(f"step {step}: the {what} is {value}; stopped, and the last checkpoint is as it was")


def forward_step(batches: Iterator[Batch], chunk: DistributedDataParallel) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """As Megatron's schedules ask for it: the model's output, and what makes a loss of it on the last stage."""
    batch = next(batches)
    return chunk(batch), partial(summed_loss, recipe=chunk.module.recipe, loss_mask_bs=batch.loss_mask_bs)


def summed_loss(token_losses_bs: Tensor, *, recipe: Recipe[Any], loss_mask_bs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the loss, the number of tokens that Megatron divides the gradient by in the end, and both for the report."""
    loss_sum, tokens = recipe.loss(token_losses_bs, loss_mask_bs)
    return loss_sum, tokens.int(), torch.stack([loss_sum.detach().double(), tokens.double()])


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
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, train),
        groups=groups,
    )
