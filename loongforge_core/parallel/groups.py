"""The process groups of each component, as objects that are handed to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loongforge_core.parallel.cpu import prepare_megatron

prepare_megatron()

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

__all__ = ["component_groups", "local_device"]


def component_groups() -> ProcessGroupCollection:
    """Every component's groups, while one process is all there is: Megatron's own."""
    from megatron.core.process_groups_config import ProcessGroupCollection

    return ProcessGroupCollection.use_mpu_process_groups()


def local_device() -> torch.device:
    """This rank's accelerator, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
