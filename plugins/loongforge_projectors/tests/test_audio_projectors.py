"""Projectors of sounds: Qwen2-Audio's equals transformers'; stacked frames stay within their item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from loongforge_projectors.frame_stack.config import FrameStackConfig
from loongforge_projectors.linear.config import LinearConfig
from torch.nn import functional as F
from transformers import Qwen2AudioConfig
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioMultiModalProjector

from loongforge_core.layers.interfaces import Features
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.parity import check_outputs, check_projector
from loongforge_core.testing.reference import ours, redraw
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import published_config
from loongforge_core.weights.holding import holdings


def both(input_size: int = 24, hidden_size: int = 32) -> tuple[LinearConfig, Qwen2AudioMultiModalProjector]:
    parts = {"audio_config": {"model_type": "qwen2_audio_encoder", "d_model": input_size}}
    parts["text_config"] = {"model_type": "qwen2", "hidden_size": hidden_size}
    return LinearConfig(input_size=input_size, hidden_size=hidden_size), Qwen2AudioMultiModalProjector(Qwen2AudioConfig(**parts))


def test_parity(tmp_path: Path) -> None:
    hidden, level = torch.randn(2, 10, 24, generator=torch.Generator().manual_seed(3))
    check_projector(*both(), tmp_path, Features(hidden, grids=((6,), (4,)), levels=(level,)))


def test_round_trip(tmp_path: Path) -> None:
    check_round_trip(*both(), tmp_path)


def test_published_size() -> None:
    """Qwen2-Audio 7B: features of 1280, embeddings of 4096."""
    config = published_config("audio_projector/qwen2_audio_adapter", Registry.discover(), {"input_size": 1280, "hidden_size": 4096})
    with torch.device("meta"):
        reference = both(1280, 4096)[1]
    with ours(config, device=torch.device("meta")) as built:
        shapes = built.table.shapes_on_disk({name: holding.shape for name, holding in holdings({"": built.model}).items()})
    assert shapes == {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}


LENGTHS = (1, 3, 4, 5, 8, 11)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("lengths", [LENGTHS, (8, 4)], ids=["with remainders", "without"])
def test_stacks_are_written_out_by_hand(lengths: tuple[int, ...], activation: str) -> None:
    """One item alone, one stack alone: what the published idea is, without any batching."""
    hidden = torch.randn(sum(lengths), 6, generator=torch.Generator().manual_seed(0))
    config = FrameStackConfig(input_size=6, hidden_size=16, ffn_hidden_size=24, stack_size=4, activation=activation)  # type: ignore[arg-type]
    with ours(config) as built:
        redraw(built.model)
        tokens = []
        for item in hidden.split(lengths):
            for start in range(0, len(item), 4):
                frames = torch.zeros(4, 6)
                frames[: len(item[start : start + 4])] = item[start : start + 4]
                between = F.gelu(built.model.linear_1(frames.flatten()), approximate="tanh" if activation == "gelu_tanh" else "none")
                tokens.append(built.model.linear_2(between))
        projected = built.model(Features(hidden, tuple((length,) for length in lengths)))
    check_outputs(projected.hidden_NW, torch.stack(tokens))
    assert projected.grids == tuple((-(-length // 4),) for length in lengths)


def test_as_many_tokens_as_the_config_counts() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 1000).tolist()
    for stack_size in (1, 3, 4):
        config = FrameStackConfig(input_size=2, hidden_size=3, stack_size=stack_size)
        with ours(config) as built:
            projected = built.model(Features(torch.zeros(sum(lengths), 2), tuple((length,) for length in lengths)))
        assert projected.grids == tuple(config.token_grid((length,)) for length in lengths)
        assert len(projected.hidden_NW) == sum(length for (length,) in projected.grids)


def test_no_gradient_crosses_from_item_to_item() -> None:
    hidden = torch.randn(sum(LENGTHS), 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with ours(FrameStackConfig(input_size=6, hidden_size=16)) as built:
        redraw(built.model)
        built.model(Features(hidden, tuple((length,) for length in LENGTHS))).hidden_NW[1].sum().backward()
    assert hidden.grad is not None and hidden.grad.abs().sum(1).nonzero().flatten().tolist() == [1, 2, 3], "the second item's three frames"


def test_rows_and_columns_cannot_be_stacked() -> None:
    with pytest.raises(ValueError, match="features that lie 2 x 3 cannot be stacked"):
        FrameStackConfig(input_size=6, hidden_size=16).token_grid((2, 3))


def test_the_published_stack_builds() -> None:
    config = published_config("audio_projector/frame_stack_adapter", Registry.discover(), {"input_size": 8, "hidden_size": 4})
    assert isinstance(config, FrameStackConfig) and config.stack_size == 4
