"""Keeps the collectives of overlapped communication in one order on all data-parallel ranks (I8).

Megatron's DDP reduces a bucket of gradients when the last of its parameters has one, and gathers weights when a module is about to use
them. Both orders follow what a rank computes: one whose batch has no image would communicate in another order than the rest, and
collectives that do not match hang, or sum what does not belong together.

Unnecessary when Megatron orders collectives itself, or encoders get a DDP of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

__all__ = ["communicate_in_order"]


def communicate_in_order(chunk: Any, sometimes_unused: Iterable[Tensor]) -> None:
    """In `chunk`, Megatron's DDP, every bucket with one of these parameters is gathered before the forward pass and reduced after the
    backward pass. They are the first to be used and the last to get a gradient, so that little is lost."""
    theirs = {id(chunk.param_to_bucket_group[parameter]) for parameter in sometimes_unused if parameter in chunk.param_to_bucket_group}
    held = [group for group in chunk.bucket_groups if id(group) in theirs]
    if chunk.ddp_config.overlap_grad_reduce:
        for group in held:
            group.register_grad_ready = never_ready  # `finish_grad_sync`, which runs in order, then starts it
    if chunk.ddp_config.overlap_param_gather:

        def gather(*_: Any) -> None:
            for group in reversed(held):  # buckets begin with the last layer
                group.finish_param_sync()

        chunk.module.register_forward_pre_hook(gather)


def never_ready(*_: Any) -> None:
    """In the place of a bucket's `register_grad_ready`."""
