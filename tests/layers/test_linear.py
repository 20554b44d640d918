"""Linear layers of the torch backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.layers.interfaces import BuildContext
from loongforge_core.layers.linear import ColumnLinear, RowLinear
from loongforge_core.layers.transformer_config import transformer_config
from loongforge_core.testing.reference import redraw

TINY = DecoderConfig(num_layers=1, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, vocab_size=29)
COLUMNS = ColumnLinear, ColumnParallelLinear, {"gather_output": False}
ROWS = RowLinear, RowParallelLinear, {"input_is_parallel": True}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("skip_bias_add", [True, False])
@pytest.mark.parametrize("case", [COLUMNS, ROWS], ids=["columns", "rows"])
def test_a_whole_layer_equals_megatrons(
    case: tuple[type[Any], type[Any], dict[str, Any]], skip_bias_add: bool, bias: bool, context: BuildContext
) -> None:
    """In output, its bias added, and in every gradient; and no bias is left to be added."""
    ours, theirs, cut = case
    arguments = {"config": transformer_config(TINY, context), "init_method": lambda _: None, "tp_group": context.groups.tp}
    layers = [kind(16, 24, bias=bias, skip_bias_add=skip_bias_add, **arguments, **cut) for kind in (ours, theirs)]
    for layer in layers:
        redraw(layer)
    upstream = torch.randn(5, 3, 24)

    def output_and_gradients(layer: Any) -> list[Tensor]:
        x = torch.linspace(-1, 1, 240).view(5, 3, 16).requires_grad_()
        output, to_add = layer(x)
        assert to_add is None or layer is not layers[0]
        output = output if to_add is None else output + to_add
        return [output, *torch.autograd.grad(output, [x, *layer.parameters()], upstream)]

    found, expected = map(output_and_gradients, layers)
    assert len(found) == (4 if bias else 3)
    # Sums of 24 products of size 1 in another order.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
