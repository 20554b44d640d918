"""Norms, and their gradients."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from loongforge_core.layers.norms import LayerNorm, RMSNorm


@pytest.mark.parametrize("norm", [RMSNorm, LayerNorm])
def test_norm_parameters_are_marked_for_sequence_parallelism(norm: type[torch.nn.Module]) -> None:
    for enabled in (True, False):
        module = norm(SimpleNamespace(params_dtype=torch.bfloat16, sequence_parallel=enabled), 8)  # type: ignore[call-arg]
        assert all(p.sequence_parallel is enabled and p.dtype == torch.bfloat16 for p in module.parameters())  # type: ignore[attr-defined]


def test_rms_norm_and_its_gradient_equal_autograd() -> None:
    norm = RMSNorm(SimpleNamespace(params_dtype=torch.float32, sequence_parallel=False), 12, 1e-3)
    reference = torch.nn.RMSNorm(12, eps=1e-3)
    weight = torch.randn(12)
    for module in (norm, reference):
        module.weight.data.copy_(weight)
    ours, theirs = (torch.randn(5, 3, 12, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    upstream = torch.randn(5, 3, 12)
    for module, x in ((norm, ours), (reference, theirs)):
        module(x).backward(upstream)
    # Sums of up to 15 products of size 1 in another order: a few units in the last place.
    for found, expected in ((norm(ours), reference(theirs)), (ours.grad, theirs.grad), (norm.weight.grad, reference.weight.grad)):
        torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)


def test_rms_norm_of_bfloat16_is_computed_in_float32() -> None:
    norm = RMSNorm(SimpleNamespace(params_dtype=torch.bfloat16, sequence_parallel=False), 64)
    norm.weight.data.fill_(1.0)
    x = torch.randn(7, 64).bfloat16()
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x).double(), exact, atol=0, rtol=2**-8)
