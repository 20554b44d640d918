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

__all__ = ["component_groups", "local_device", "replicated_groups"]


def component_groups() -> ProcessGroupCollection:
    """The language model's groups: Megatron's own."""
    from megatron.core.process_groups_config import ProcessGroupCollection

    return ProcessGroupCollection.use_mpu_process_groups()


def replicated_groups(groups: ProcessGroupCollection) -> ProcessGroupCollection:
    """Of an encoder that every tensor rank of the first stage holds whole, beside a language model with these groups.

    A rank is alone in whatever splits a model. The groups that share data are the language model's, and so is `tp_dp_cp`, by which
    `bookkeeping` counts the copies. Every rank makes its own group by itself, stages without encoders none.
    """
    if groups.tp.size() == groups.pp.size() == groups.cp.size() == 1:
        return groups
    alone = distributed.new_group([distributed.get_rank()], use_local_synchronization=True)
    own = copy.copy(groups)
    for name in ("tp", "pp", "cp", "tp_cp", "mp", "embd", "pos_embd"):
        setattr(own, name, alone)
    return own


def local_device() -> torch.device:
    """This rank's accelerator, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
