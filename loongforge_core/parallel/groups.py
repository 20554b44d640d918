"""The process groups of each component, as objects that are handed to it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import distributed

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

    from loongforge_core.config.settings import ParallelSettings

__all__ = ["component_groups", "encoder_groups", "initialise_groups", "local_device"]


def initialise_groups(parallel: ParallelSettings, *, seed: int) -> None:
    """Forms Megatron's own groups, the language model's, over all processes, and seeds its random states."""
    from megatron.core import parallel_state, tensor_parallel

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        expert_model_parallel_size=parallel.expert_model_parallel_size,
        expert_tensor_parallel_size=parallel.expert_tensor_parallel_size,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)


def component_groups() -> ProcessGroupCollection:
    """The language model's groups: Megatron's own."""
    from megatron.core.process_groups_config import ProcessGroupCollection

    return ProcessGroupCollection.use_mpu_process_groups()


def encoder_groups(groups: ProcessGroupCollection, tensor_parallel_size: int) -> ProcessGroupCollection:
    """Of an encoder with a tensor size of its own, on the first pipeline stage of a language model with these groups.

    The language model's tensor ranks are cut into so many as it takes, one after another: each part holds the whole encoder. The
    groups that share data are the language model's, and so is `tp_dp_cp`, by which `bookkeeping` counts the copies. The ranks of a part
    make their group by themselves, stages without encoders none.
    """
    if groups.pp.size() == groups.cp.size() == 1 and groups.tp.size() == tensor_parallel_size:
        return groups
    own = copy.copy(groups)
    alone = distributed.new_group([distributed.get_rank()], use_local_synchronization=True)
    for name in ("pp", "cp", "embd", "pos_embd"):
        setattr(own, name, alone)
    first = groups.tp.rank() // tensor_parallel_size * tensor_parallel_size
    ranks = distributed.get_process_group_ranks(groups.tp)[first : first + tensor_parallel_size]
    together = alone if tensor_parallel_size == 1 else distributed.new_group(ranks, use_local_synchronization=True)
    for name in ("tp", "tp_cp", "mp"):
        setattr(own, name, together)
    return own


def local_device() -> torch.device:
    """This rank's accelerator, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
