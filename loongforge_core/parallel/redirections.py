"""Every redirection that lets Megatron-Core run without an accelerator, with its reason; `cpu.py` applies them.

Rows for `torch` and `torch.cuda` hold inside Megatron's modules only. Two methods of `torch.Tensor` have to be replaced for everyone,
and they ask who calls. No row asks for a version: where a version has no use for a row, it does no harm.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from loongforge_core.parallel.repairs import Replacement

__all__ = ["MEGATRON", "REDIRECTIONS", "SILENCED_LOGS", "SILENCED_WARNINGS", "in_megatron"]

MEGATRON = "megatron.core"

# ---- what stands in for CUDA ----------------------------------------------------------------------------------------


class Stream:
    """A stream or event where every call has finished when it returns, so that there is nothing to wait for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def do_nothing(self, *_: Any, **__: Any) -> None: ...

    wait_stream = wait_event = synchronize = record = wait = do_nothing

    def record_event(self, event: Stream | None = None) -> Stream:
        return event or self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream)

    __hash__ = None  # type: ignore[assignment]


def in_megatron(module_name: str) -> bool:
    return f"{module_name}.".startswith(f"{MEGATRON}.")


def always(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


def answer(value: Any) -> Callable[[Any], Any]:
    return lambda _: lambda *args, **kwargs: value


def create_on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Nor is memory pinned, for copies to an accelerator: without one torch refuses to."""

    def create(*args: Any, device: Any = None, pin_memory: bool = False, **kwargs: Any) -> Any:
        return factory(*args, device="cpu" if str(device).startswith("cuda") else device, **kwargs)

    return functools.wraps(factory)(create)


def read_cpu_generator(*_: Any, **__: Any) -> Any:
    import torch

    return torch.get_rng_state()


def write_cpu_generator(state: Any, *_: Any, **__: Any) -> None:
    import torch

    torch.set_rng_state(state)


def seed_cpu_generator(seed: int) -> None:
    import torch

    # `torch.manual_seed` also notes its caller, for a CUDA that never comes: 0.2 ms, and a list that grows.
    torch.default_generator.manual_seed(seed)


def run_uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def to_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    return tensor.numpy() if as_numpy and hasattr(tensor, "numpy") else tensor


def calling_module() -> str:
    """Name of the module that called the function that asks."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))


def stay_for_megatron(cuda: Callable[..., Any]) -> Callable[..., Any]:
    def stay(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return tensor if in_megatron(calling_module()) else cuda(tensor, *args, **kwargs)

    return functools.wraps(cuda)(stay)


def cuda_type_for_optimizer(type_of: Callable[..., Any]) -> Callable[..., Any]:
    def cuda_type(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        found = type_of(tensor, *args, **kwargs)
        if not isinstance(found, str) or not calling_module().startswith(f"{MEGATRON}.optimizer"):
            return found
        return f"torch.cuda.{found.rpartition('.')[2]}"

    return functools.wraps(type_of)(cuda_type)


def norm_in_float64(chunk_size: int, overflow: Any, tensor_lists: Sequence[Sequence[Any]], *_: Any) -> tuple[Any, None]:
    """In the place of `multi_tensor_l2norm`: the norm of all tensors together, as a float64 tensor."""
    import torch

    squares = [float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2 for tensors in tensor_lists for tensor in tensors]
    return torch.tensor([sum(squares) ** 0.5], dtype=torch.float64), None


def rounded_to_float32(norm: Callable[..., float]) -> Callable[..., float]:
    """Ranks add their squares in float64: one without gradients too, and what is left of the order of adding is rounded away."""

    @functools.wraps(norm)
    def rounded(gradients: Any, *args: Any, **kwargs: Any) -> float:
        import torch

        return float(torch.tensor(norm(gradients if len(gradients) else [torch.zeros(1)], *args, **kwargs), dtype=torch.float32))

    return rounded


def gather_unequal(gather: Callable[..., Any]) -> Callable[..., Any]:
    """Every rank adds its part to zeros, where ranks have parts of unequal size."""

    @functools.wraps(gather)
    def gathered(input_: Any, group: Any, output_split_sizes: Sequence[int] | None = None, *more: Any) -> Any:
        import torch

        if output_split_sizes is None or group.size() == 1:
            return gather(input_, group, output_split_sizes, *more)
        whole = input_.new_zeros((sum(output_split_sizes), *input_.shape[1:]))
        whole.split(list(output_split_sizes))[group.rank()].copy_(input_)
        torch.distributed.all_reduce(whole, group=group)
        return whole

    return gathered


def reduce_scatter_unequal(reduce_scatter: Callable[..., Any]) -> Callable[..., Any]:
    """Every rank takes its part of the whole sum."""

    @functools.wraps(reduce_scatter)
    def scattered(input_: Any, group: Any, input_split_sizes: Sequence[int] | None = None, *more: Any) -> Any:
        import torch

        if input_split_sizes is None or group.size() == 1:
            return reduce_scatter(input_, group, input_split_sizes, *more)
        whole = input_.clone()
        torch.distributed.all_reduce(whole, group=group)
        return whole.split(list(input_split_sizes))[group.rank()].contiguous()

    return scattered


# ---- the table ------------------------------------------------------------------------------------------------------

DEVICE_AGNOSTIC = "Megatron asks for the device of its inputs, or of the process group"

REDIRECTIONS: tuple[Replacement, ...] = (
    *(
        Replacement("torch", name, create_on_cpu, "device='cuda' and pin_memory=True are written into Megatron's code", DEVICE_AGNOSTIC)
        for name in ("empty", "empty_like", "ones", "tensor", "zeros")
    ),
    Replacement("torch.cuda", "current_device", answer("cpu"), "is passed on as device=", DEVICE_AGNOSTIC),
    Replacement("torch.Tensor", "cuda", stay_for_megatron, "moves tied embeddings and loaded state", DEVICE_AGNOSTIC),
    Replacement(
        "torch.Tensor",
        "type",
        cuda_type_for_optimizer,
        "the optimizer compares it with 'torch.cuda.FloatTensor' to tell precisions apart, and refuses others",
        "the optimizer compares Tensor.dtype",
    ),
    Replacement("torch.cuda", "synchronize", answer(None), "pipeline sends, timers, saving", DEVICE_AGNOSTIC),
    *(
        Replacement("torch.cuda", name, make, "expert dispatch, gradient reduction", "Megatron uses torch.Stream")
        for name, make in {
            "Stream": always(Stream),
            "Event": always(Stream),
            "current_stream": always(Stream),
            "default_stream": always(Stream),
            "stream": always(nullcontext),
        }.items()
    ),
    *(
        Replacement(where, name, always(stand_in), "random states of dropout and recomputation", DEVICE_AGNOSTIC)
        for where, name, stand_in in (
            ("torch.cuda", "get_rng_state", read_cpu_generator),
            ("torch.cuda", "set_rng_state", write_cpu_generator),
            ("torch.cuda", "manual_seed", seed_cpu_generator),
            ("megatron.core.tensor_parallel.random", "_get_cuda_rng_state", read_cpu_generator),
            ("megatron.core.tensor_parallel.random", "_set_cuda_rng_state", write_cpu_generator),
        )
    ),
    Replacement(
        "megatron.core.transformer.moe.moe_utils",
        "maybe_move_tensor_to_cpu",
        always(to_host),
        "converts CUDA tensors only, so that all-to-all would get tensors as split sizes",
        "it converts every tensor",
    ),
    *(
        Replacement(
            "megatron.core.tensor_parallel.mappings",
            name,
            make,
            "gloo has no parts of unequal size, which experts that are split over tensor ranks gather and scatter",
            "gloo has them",
        )
        for name, make in {
            "_gather_along_first_dim": gather_unequal,
            "_reduce_scatter_along_first_dim": reduce_scatter_unequal,
        }.items()
    ),
    *(
        Replacement(
            "megatron.core.optimizer.clip_grads",
            name,
            make,
            "float32's last digit depends on how many ranks add squares; by it every gradient is clipped, and pipeline stages would part",
            "squares are added in float64",
        )
        for name, make in {"l2_norm_impl": always(norm_in_float64), "get_grad_norm_fp32": rounded_to_float32}.items()
    ),
    Replacement(
        "megatron.core.jit",
        "jit_fuser",
        always(run_uncompiled),
        "torch.compile: slow, and a compiler must be installed",
        "it asks for an accelerator",
    ),
)

# Said to everyone without transformer-engine, Apex or CUDA, or about Megatron's own calls and defaults: nobody here can act
# on it. Message, category, module ("" for any).
SILENCED_WARNINGS: tuple[tuple[str, type[Warning], str], ...] = (
    (r"(Transformer Engine and Apex are|Apex is) not installed", UserWarning, ""),
    (r"When using async grad allreduce it is recommended .*CUDA_DEVICE_MAX_CONNECTIONS", UserWarning, ""),
    (r"full scope is deprecated. Use empty cuda_graph_", UserWarning, ""),
    (r"MimoModelConfig is experimental", UserWarning, ""),
    (r"`sequence_parallel` is set to `True`, but tensor model parallel size is 1", UserWarning, ""),  # of experts on one tensor rank each
    (r"The \.grad attribute of a Tensor that is not a leaf", UserWarning, r"megatron\.core\.optimizer"),
    (r"`torch\.distributed\.(reduce_scatter|all_gather_into)_tensor` is deprecated", FutureWarning, ""),
    (r"`load_state_dict` is deprecated", FutureWarning, r"megatron\.core\.dist_checkpointing"),
    (r"Please use DTensor instead and we are deprecating ShardedTensor", FutureWarning, r"torch\.distributed\."),
    (r"The argument order of load has been changed", UserWarning, r"torch\.distributed\.checkpoint"),
    (r"torch.distributed is disabled, unavailable", UserWarning, r"torch\.distributed\.checkpoint"),
    (r"The following imports from `dynamic_context.py` will be removed", DeprecationWarning, ""),
    (r"\s*The 'megatron.core.transformer.custom_layers.transformer_engine'\s+module is", DeprecationWarning, ""),
)
# The generator that Megatron watches is, on a CPU, the one that it just used.
SILENCED_LOGS: tuple[tuple[str, str], ...] = (("megatron.core.tensor_parallel.random", "CPU RNG state changed within GPU RNG context"),)
