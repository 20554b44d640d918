"""Errors of a Megatron-Core version that a GPU has too, and their repair.

`cpu.py` applies the table whenever it prepares Megatron, with and without an accelerator. A repair leaves a version
without the error as it is, so that no version number is asked here. What would be wrong at other times is a context
manager, for the caller to hold open: `writing_in_this_process`, and `quiet` for what it says without need.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import multiprocessing.dummy
import queue
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

__all__ = ["REPAIRS", "Replacement", "quiet", "writing_in_this_process"]


@dataclass(frozen=True)
class Replacement:
    """One name of a module or class, and what takes its place."""

    where: str
    """The module or class that holds the name."""
    name: str
    make: Callable[[Any], Any]
    """From what the name meant (None where it was missing) to what it shall mean."""
    reason: str
    until: str
    """What would make this row unnecessary."""


def reduce_what_is_returned(reduce: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(reduce)
    def reduce_contiguous(input_: Any, group: Any) -> Any:
        return reduce(input_.contiguous() if group.size() > 1 else input_, group)

    return reduce_contiguous


def when_built(repair: Callable[[Any], None]) -> Callable[[Any], Any]:
    """For a row that names a class: its modules are repaired when they have been built. The class stays the same: others derive from it."""

    def repaired(built: Any) -> Any:
        build = built.__init__

        @functools.wraps(build)
        def build_and_repair(module: Any, *args: Any, **kwargs: Any) -> None:
            build(module, *args, **kwargs)
            repair(module)

        built.__init__ = build_and_repair
        return built

    return repaired


def share_rotary_key(attention: Any) -> None:
    """All heads, on whatever rank, have one rotary key: its gradient is the sum over the ranks.

    The projection that makes it, behind the latent keys and values, has two forms. What comes from one that is cut over the ranks is
    gathered without a sum in the backward pass. One that every rank has whole is right under sequence parallelism only: there the key is
    gathered along the sequence, with a sum. So what is cut is made whole first, and the gradient is summed where Megatron does not.
    """
    import torch
    from megatron.core import tensor_parallel

    config, group = attention.config, attention.pg_collection.tp
    if group.size() == 1:
        return
    widths = [config.kv_lora_rank, config.qk_pos_emb_head_dim]

    def whole(_: Any, __: Any, output: tuple[Any, Any]) -> tuple[Any, Any]:
        combined, bias = output
        if combined.shape[-1] != sum(widths):
            combined = tensor_parallel.gather_from_tensor_model_parallel_region(combined, group=group)
            if config.sequence_parallel:
                combined = tensor_parallel.scatter_to_sequence_parallel_region(combined, group=group)
        if config.sequence_parallel:
            return combined, bias
        latent, key = combined.split(widths, dim=-1)
        shared = tensor_parallel.copy_to_tensor_model_parallel_region(key, group=group)
        return torch.cat((latent, shared), dim=-1), bias

    attention.linear_kv_down_proj.register_forward_hook(whole)


def recompute_with_gradient(block: Any) -> None:
    """A recomputed layer passes gradients on to its weights only where its input needs one, and behind a frozen embedding none does."""
    import torch

    def need_gradient(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = kwargs.get("hidden_states")
        trains = block.training and torch.is_grad_enabled() and any(parameter.requires_grad for parameter in block.parameters())
        if trains and isinstance(hidden, torch.Tensor) and not hidden.requires_grad:
            kwargs = {**kwargs, "hidden_states": hidden.detach().requires_grad_()}
        return args, kwargs

    if block.config.recompute_granularity == "full":
        block.register_forward_pre_hook(need_gradient, with_kwargs=True)


def mark_head_norms(attention: Any) -> None:
    """Each rank normalises its own heads with the weights that all of them share: so the gradient of these is the sum over the ranks.

    With sequence parallelism these weights are marked already, like those of every norm.
    """
    config, group = attention.config, attention.pg_collection.tp
    if not config.qk_layernorm or config.sequence_parallel or group.size() == 1:
        return
    for norm in filter(None, (attention.q_layernorm, attention.k_layernorm)):
        for parameter in norm.parameters():
            parameter.summed_over = group


def sum_head_norms_as_marked(allreduce: Callable[..., None]) -> Callable[..., None]:
    """Megatron's function, told that there are no norms of heads; then the gradients of those that `mark_head_norms` marked."""
    import torch

    @functools.wraps(allreduce)
    def allreduce_as_marked(model: list[Any], config: Any, tp_group: Any = None) -> None:
        without_head_norms = copy.copy(config)
        without_head_norms.qk_layernorm = False
        allreduce(model, without_head_norms, tp_group)
        shared: dict[Any, list[torch.Tensor]] = {}
        for parameter in (parameter for chunk in model for parameter in chunk.parameters() if parameter.requires_grad):
            if group := getattr(parameter, "summed_over", None):
                shared.setdefault(group, []).append(parameter.main_grad)
        for group, gradients in shared.items():
            together = torch.cat([gradient.flatten() for gradient in gradients])
            torch.distributed.all_reduce(together, group=group)
            totals = torch.split(together, [gradient.numel() for gradient in gradients])
            for gradient, total in zip(gradients, totals, strict=True):
                gradient.copy_(total.view_as(gradient))

    return allreduce_as_marked


def set_in_any_shape(scaler: Any) -> Any:
    """A scale of another shape than the one that is set is dropped; of the same, it is filled, as CUDA graphs need it."""
    fill = scaler.set_loss_scale

    @functools.wraps(fill)
    def set_loss_scale(scale: Any) -> None:
        left = scaler.main_loss_backward_scale
        if left is not None and left.shape != scale.shape:
            scaler.main_loss_backward_scale = None
        fill(scale)

    scaler.set_loss_scale = staticmethod(set_loss_scale)
    return scaler


class NoTransformerEngineLinear:
    """Nothing is an instance of it."""


def defined(found: Any) -> Any:
    """None where there was no such name."""
    return found


def class_or_none_of_it(found: Any) -> Any:
    return found if isinstance(found, type) else NoTransformerEngineLinear


REPAIRS: tuple[Replacement, ...] = (
    Replacement(
        "megatron.core.transformer.moe.moe_utils",
        "te_general_gemm",
        defined,
        "undefined in 0.16.1 without transformer-engine, and asked for by the router",
        "0.16.1 is no longer supported",
    ),
    Replacement(
        "megatron.core.extensions.transformer_engine",
        "TELinear",
        class_or_none_of_it,
        "a mock without transformer-engine; isinstance(..., TELinear) of 0.16.1's latent attention fails on it",
        "0.16.1 is no longer supported",
    ),
    Replacement(
        "megatron.core.tensor_parallel.mappings",
        "_reduce",
        reduce_what_is_returned,
        "0.16.1 all-reduces a contiguous copy and returns the original: a transposed gradient is never summed",
        "0.16.1 is no longer supported; 0.19 returns the copy",
    ),
    Replacement(
        "megatron.core.transformer.multi_latent_attention",
        "MLASelfAttention",
        when_built(share_rotary_key),
        "under tensor parallelism each rank keeps its own heads' gradient of the rotary key that all heads share: it is never summed",
        "tests/parallel/test_traps.py passes without it",
    ),
    Replacement(
        "megatron.core.transformer.transformer_block",
        "TransformerBlock",
        when_built(recompute_with_gradient),
        "with full recomputation layers whose input needs no gradient, as behind a frozen embedding, get none, in silence",
        "the frozen cases of tests/model/test_recomputation.py pass without it",
    ),
    Replacement(
        "megatron.core.transformer.moe.moe_utils",
        "MoEAuxLossAutoScaler",
        set_in_any_shape,
        "a backward pass without a schedule leaves a scale of routers' losses without dimensions in the class; a schedule cannot fill that",
        "tests/parallel/test_traps.py passes without it",
    ),
    Replacement(
        "megatron.core.transformer.attention",
        "SelfAttention",
        when_built(mark_head_norms),
        "says which norms of heads the next row sums, over which ranks",
        "the next row is unnecessary",
    ),
    Replacement(
        "megatron.core.distributed.finalize_model_grads",
        "_allreduce_non_tensor_model_parallel_grads",
        sum_head_norms_as_marked,
        "a language model with `qk_layernorm` has whatever is called q_layernorm summed over its own tensor ranks, an encoder's too; one "
        "without it has none of an encoder's summed",
        "tests/layouts/test_head_norms.py passes without it",
    ),
)


@contextlib.contextmanager
def writing_in_this_process() -> Iterator[None]:
    """Around a synchronous `dist_checkpointing.save`: its writers are threads. Asynchronous saving needs the processes missing here.

    Megatron 0.16 forks its writers, and both versions hand results over in a server process, also where they write synchronously.
    Of a run that is killed while it saves, those live on, waiting for it for ever; the server takes seconds to start and needs a `__main__`
    that can be imported. Threads and a queue do as well where nobody goes on training meanwhile.

    Unnecessary when a synchronous save of Megatron's starts no process: 0.19 writes with threads, but keeps the server.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    before = filesystem_async.mp, filesystem_async._results_queue
    filesystem_async.mp = SimpleNamespace(get_context=lambda _: multiprocessing.dummy)
    filesystem_async._results_queue = queue.Queue()
    try:
        yield
    finally:
        filesystem_async.mp, filesystem_async._results_queue = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what Megatron and torch say of their own calls to each other (deprecations), about which nobody here can do anything."""
    logger = logging.getLogger("megatron.core.dist_checkpointing")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
