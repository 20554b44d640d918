"""Linear layers of the torch backend: Megatron's, and one product with its bias where a layer is whole.

Megatron adds a bias to what the product has written, and hands many of them over to be added later: one more pass over memory each, of the
widest tensors there are. Where nothing is summed over tensor ranks between product and bias, torch does both at once.
"""

from __future__ import annotations

from typing import Any

from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ColumnLinear", "RowLinear", "without_bias"]


class ColumnLinear(ColumnParallelLinear):  # type: ignore[misc]
    """Its outputs are cut over tensor ranks."""

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """The output, and a bias that is still to be added."""
        if self.output_size_per_partition < self.output_size:
            output, bias = super().forward(input_, *args, **kwargs)
            return output, bias
        assert not args and not kwargs, "Megatron's layers hand over neither a weight nor whether to gather"
        return F.linear(input_, self.weight, self.bias), None


class RowLinear(RowParallelLinear):  # type: ignore[misc]
    """Its inputs are cut over tensor ranks."""

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output, and a bias that is still to be added."""
        if self.input_size_per_partition < self.input_size:
            output, bias = super().forward(input_)
            return output, bias
        return F.linear(input_, self.weight, self.bias), None


def without_bias(linear: type) -> type:
    """The same layer without a bias, where Megatron asks for one because its neighbours have it."""

    class LinearWithoutBias(linear):  # type: ignore[misc]
        def __init__(self, *args: Any, bias: bool, **kwargs: Any) -> None:
            super().__init__(*args, bias=False, **kwargs)

    return LinearWithoutBias
