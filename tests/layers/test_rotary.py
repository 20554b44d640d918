"""Rotary positions: the turn itself, scaling to the last bit as in transformers, three axes as in Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from pydantic import TypeAdapter, ValidationError
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.layers.rotary import RotaryAngles, rotate
from loongforge_core.layers.rotary_config import RotaryScaling
from loongforge_core.testing.waiting import META, never_waiting

SIZES: dict[str, Any] = {"num_layers": 1, "hidden_size": 256, "ffn_hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9}


def test_rotation_is_a_turn_by_the_position() -> None:
    """Against complex multiplication; and turning back is the gradient."""
    positions = torch.tensor([[0, 1, 5], [2, 2, 9]])
    heads = torch.randn(3, 2, 4, 8, requires_grad=True)
    angles = RotaryAngles(8, 100.0)
    turned = rotate(heads, angles(positions, torch.float32))
    pairs = torch.complex(heads[..., :4], heads[..., 4:])
    frequency = 1 / 100.0 ** (torch.arange(4) / 4)
    phase = torch.polar(torch.ones(3, 2, 1, 4), (positions.t()[:, :, None, None] * frequency))
    expected = torch.cat(((pairs * phase).real, (pairs * phase).imag), dim=-1)
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=0)
    upstream = torch.randn_like(turned)
    (ours,) = torch.autograd.grad(turned, heads, upstream, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, heads, upstream)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_less_precise_heads_are_turned_in_the_precision_of_the_angles() -> None:
    """Rounded once, behind the turn; and so is the gradient."""
    heads = torch.randn(3, 2, 4, 8).bfloat16().requires_grad_()
    rotation = RotaryAngles(8, 100.0)(torch.tensor([[0, 1, 5], [2, 2, 9]]), torch.float32)
    turned, upstream = rotate(heads, rotation), torch.randn(3, 2, 4, 8).bfloat16()
    assert torch.equal(turned, rotate(heads.float(), rotation).bfloat16())
    (gradient,) = torch.autograd.grad(turned, heads, upstream)
    cosine, sine = rotation
    assert torch.equal(gradient, rotate(upstream.float(), torch.stack((cosine, -sine))).bfloat16())


@pytest.mark.parametrize("section", [None, [2, 1, 1]])
def test_no_device_is_waited_for(section: list[int] | None) -> None:
    """Frequencies lie on the host, so that a model on the meta device has them: they go where the positions are."""
    positions = torch.empty((3, 2, 5) if section else (2, 5), dtype=torch.int64, device=META)
    with never_waiting():
        assert RotaryAngles(8, 100.0, mrope_section=section)(positions, torch.bfloat16).shape == (2, 5, 2, 1, 4)


# As published, or as model cards say to add them, and every switch that YaRN has.
SCALINGS: dict[str, dict[str, Any]] = {
    "deepseek-coder": {"type": "linear", "factor": 4.0},
    "Llama 3.1": {
        "type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "InternLM2.5": {"type": "dynamic", "factor": 2.0},
    "Qwen2.5 and Qwen3 beyond 32768": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "DeepSeek-V3": {
        "type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "DeepSeek-V2": {
        "type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 0.707,
        "mscale_all_dim": 1.2,
    },
    "gpt-oss": {"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False},
    "other turns": {"type": "yarn", "factor": 3.0, "original_max_position_embeddings": 500, "beta_fast": 9.0, "beta_slow": 2.5},
    "turns of one frequency": {
        "type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": 500,
        "beta_fast": 2.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "stated magnitude": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.3},
    "not longer": {"type": "yarn", "factor": 1.0, "original_max_position_embeddings": 64},
}


def theirs(scaling: dict[str, Any], base: float, length: int | None) -> tuple[torch.Tensor, float]:
    """Frequencies and magnitude of a Llama in transformers with heads of 128 and 3000 positions, for samples of `length` tokens."""
    parameters = {name: value for name, value in scaling.items() if name != "type"}
    config = transformers.LlamaConfig(
        head_dim=128, max_position_embeddings=3000, rope_parameters={"rope_type": scaling["type"], "rope_theta": base, **parameters}
    )
    return ROPE_INIT_FUNCTIONS[scaling["type"]](config, seq_len=length)


@pytest.mark.parametrize("base", [1e4, 1e6, 5e5])
@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_frequencies_are_those_of_transformers(name: str, base: float) -> None:
    frequency, magnitude = theirs(SCALINGS[name], base, None)
    angles = RotaryAngles(128, base, TypeAdapter(RotaryScaling).validate_python(SCALINGS[name]))
    assert torch.equal(angles.inverse_frequency, frequency)
    cosine, sine = angles(torch.tensor([[0, 70_000]]), torch.float32)[:, :, 0, 0]
    torch.testing.assert_close(cosine[0], torch.full((64,), magnitude), atol=0, rtol=0)
    torch.testing.assert_close(sine[1], (70_000 * frequency).sin() * magnitude, atol=0, rtol=0)


@pytest.mark.parametrize("length", [5, 3000, 3001, 7777])
def test_dynamic_scaling_follows_the_longest_sequence_of_the_run(length: int) -> None:
    """And nothing else: a short sample of a long run is turned like the long ones."""
    config = DecoderConfig(**SIZES, max_position_embeddings=3000, rotary_base=1e6, rotary_scaling={"type": "dynamic", "factor": 2.0})
    frequency, _ = theirs(SCALINGS["InternLM2.5"], 1e6, length)
    angles = RotaryAngles.of(config, length)
    assert torch.equal(angles.inverse_frequency, frequency)
    unscaled = RotaryAngles(128, 1e6).inverse_frequency
    assert torch.equal(angles.inverse_frequency, unscaled) is (length <= 3000)
    long, short = (angles(torch.arange(tokens).expand(2, -1), torch.float32) for tokens in (length, 4))
    assert torch.equal(long[:, :4], short)


def test_without_a_run_dynamic_scaling_does_nothing() -> None:
    config = DecoderConfig(**SIZES, rotary_scaling={"type": "dynamic", "factor": 2.0})
    assert torch.equal(RotaryAngles.of(config, None).inverse_frequency, RotaryAngles(128, 1e4).inverse_frequency)


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        (None, 2048),
        ({"type": "linear", "factor": 4.0}, 2048),
        ({"type": "dynamic", "factor": 2.0}, None),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 2048),
    ],
)
def test_how_long_a_sequence_may_be(scaling: dict[str, Any] | None, longest: int | None) -> None:
    assert DecoderConfig(**SIZES, max_position_embeddings=2048, rotary_scaling=scaling).max_sequence_length == longest


@pytest.mark.parametrize(
    ("section", "interleaved"), [([16, 24, 24], False), ([30, 13, 21], False), ([24, 20, 20], True), ([30, 13, 21], True)]
)
def test_three_axes_are_those_of_qwen_vl(section: list[int], interleaved: bool) -> None:
    """With a scaling beside them, which multiplies cosines and sines."""
    scaling = {"factor": 4.0, "original_max_position_embeddings": 512}
    parameters = {"rope_type": "yarn", "rope_theta": 1e6, "mrope_section": section, **scaling}
    sizes = {"hidden_size": 256, "num_attention_heads": 2, "head_dim": 128}
    reference = (
        Qwen3VLTextRotaryEmbedding(transformers.Qwen3VLTextConfig(**sizes, rope_parameters={**parameters, "mrope_interleaved": True}))
        if interleaved
        else Qwen2_5_VLRotaryEmbedding(transformers.Qwen2_5_VLTextConfig(**sizes, rope_parameters=parameters))
    )
    config = DecoderConfig(
        **SIZES, rotary_base=1e6, rotary_scaling={"type": "yarn", **scaling}, mrope_section=section, mrope_interleaved=interleaved
    )
    positions = torch.randint(0, 4000, (3, 2, 11), generator=torch.Generator().manual_seed(0))
    cosine, sine = reference(torch.empty(()), positions)
    ours = RotaryAngles.of(config, None)(positions, torch.float32).squeeze(3)
    # Theirs are written twice, for both halves of a head.
    assert torch.equal(ours, torch.stack((cosine, sine))[..., :64].transpose(1, 2))


def test_positions_of_one_axis_are_refused_where_there_are_three() -> None:
    with pytest.raises(AssertionError, match=r"three axes were expected, given is \[2, 5\]"):
        RotaryAngles(8, 1e4, mrope_section=[2, 1, 1])(torch.zeros(2, 5, dtype=torch.int64), torch.float32)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mrope_section": [16, 24, 23]}, r"\[16, 24, 23\] adds up to 63; expected three numbers .* that add up to 64, half a head's"),
        ({"mrope_section": [32, 32]}, "expected three numbers"),
        ({"mrope_section": [64, 32, -32]}, "greater than 0"),
        ({"mrope_section": [16, 24, 24], "mrope_interleaved": True}, "cannot be interleaved: .* would have frequency 71 of 64"),
        ({"mrope_interleaved": True}, "no mrope_section to interleave"),
        ({"rotary_scaling": {"type": "ntk", "factor": 2.0}}, "'linear', 'dynamic', 'llama3', 'yarn'"),
        ({"rotary_scaling": {"type": "linear", "factor": 0.5}}, "greater than or equal to 1"),
        ({"rotary_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 32.0}}, "beta_fast"),
        ({"rotary_scaling": {"type": "yarn", "factor": 2.0}}, "original_max_position_embeddings"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DecoderConfig(**SIZES, **fields)
