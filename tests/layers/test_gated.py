"""The gated activation."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from loongforge_core.layers.gated import SiluTimes


def test_gated_silu_and_its_gradient_equal_autograd() -> None:
    both = torch.randn(5, 3, 12, dtype=torch.float64, requires_grad=True)
    gate, up = both.chunk(2, -1)
    torch.testing.assert_close(SiluTimes.apply(both), F.silu(gate) * up)
    assert torch.autograd.gradcheck(SiluTimes.apply, both)
