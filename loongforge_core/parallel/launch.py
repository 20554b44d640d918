"""Processes that talk to each other: this one alone, or some that are forked for a test or for `--nproc`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()


def initialise_process(*, rank: int = 0, world_size: int = 1, store: Any = None, timeout_s: float = 600) -> None:
    """Joins the default process group; a world of one needs no store. No environment variables, no fixed port."""
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=distributed.HashStore() if store is None else store,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
    )


@contextmanager
def single_process(*, seed: int = 1) -> Iterator[None]:
    """This process alone, with Megatron's groups of one and its random states, both undone at the end."""
    from megatron.core import parallel_state, tensor_parallel

    initialise_process()
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()
        distributed.destroy_process_group()
