"""Finds what would make the host wait for a device, and so keep it idle: on the meta device, which has no values to wait for.

def test_nothing_waits():
    with ours(config, device=META) as built, never_waiting():
        built.model(Items({"pixel_values": pixels.to(META)}, sizes))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["META", "never_waiting"]

META = torch.device("meta")

ASKING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique", "aten.repeat_interleave.Tensor")
"""Whose result, or its shape, is a value of the tensor."""
COPYING = ("aten._to_copy", "aten.copy_")


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what waits. A copy does not where it is `non_blocking`, which from the host is safe with any memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, on_device = str(func), any(isinstance(value, Tensor) and value.is_meta for value in args)
        assert not (on_device and name.startswith(ASKING)), f"{name} asks a device for values"
        result = func(*args, **kwargs)
        if name.startswith(COPYING):
            source = args[0] if name.startswith("aten._to_copy") else args[1]
            waits = source.device != result.device and not (kwargs.get("non_blocking") or True in args[2:])
            assert not waits, f"{list(source.shape)} are copied from {source.device} to {result.device} without non_blocking"
        return result


@contextmanager
def never_waiting() -> Iterator[None]:
    """Inside, what waits for the meta device is an AssertionError, and so is what asks it for a value."""
    with Watch():  # type: ignore[no-untyped-call]
        yield
