"""Whisper's encoder: parity with transformers, round trip, what published folders hold beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from loongforge_audio.whisper.config import WhisperConfig
from loongforge_audio.whisper.model import sinusoids
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.models.whisper.modeling_whisper import sinusoids as their_sinusoids

from loongforge_core.layers.interfaces import Items
from loongforge_core.testing.parity import check_encoder
from loongforge_core.testing.reference import ours
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size
from loongforge_core.weights.import_hf import import_hf

OURS = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_mel_bins": 10,
    "max_source_positions": 12,
}
THEIRS = {
    "encoder_layers": 2,
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "num_mel_bins": 10,
    "max_source_positions": 12,
}


def both() -> tuple[WhisperConfig, transformers.PreTrainedModel]:
    return WhisperConfig(**OURS), WhisperEncoder(transformers.WhisperConfig(**THEIRS))


def sounds() -> Items:
    features = torch.randn(3 * 24, 10, generator=torch.Generator().manual_seed(3))
    return Items({"input_features": features}, ((24,),) * 3)


def test_parity(tmp_path: Path) -> None:
    def features(reference: Any) -> Tensor:
        given = sounds().inputs["input_features"].view(3, 24, 10).transpose(1, 2)
        return reference(given).last_hidden_state.flatten(0, 1)

    check_encoder(*both(), tmp_path, sounds(), features)


def test_round_trip(tmp_path: Path) -> None:
    check_round_trip(*both(), tmp_path)


def test_the_positions_are_whispers() -> None:
    """In float32 the reference's largest angles are known to about 1e-4."""
    np.testing.assert_allclose(sinusoids((1500, 384)), their_sinusoids(1500, 384).numpy(), atol=2e-4)
    with ours(WhisperConfig(**OURS)) as built:
        assert not built.target.position_embedding.weight.requires_grad


@pytest.mark.parametrize("model_class", [transformers.WhisperForConditionalGeneration, transformers.WhisperModel])
def test_reads_its_half_of_a_published_model(model_class: Any, tmp_path: Path) -> None:
    """OpenAI's folders hold a decoder too, which is no extra tensor."""
    small = {"decoder_layers": 1, "decoder_ffn_dim": 48, "decoder_attention_heads": 4, "vocab_size": 60, "max_target_positions": 9}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 2}
    whole = model_class(transformers.WhisperConfig(**THEIRS, **small, **special))
    whole.save_pretrained(tmp_path)
    with ours(WhisperConfig(**OURS)) as built:
        import_hf(tmp_path, built.target, built.table, built.config)
        theirs = whole.get_encoder()
        assert torch.equal(built.target.conv2.weight, theirs.conv2.weight)
        attention = built.target.transformer.layers[1].self_attention
        assert torch.equal(attention.value_bias, theirs.layers[1].self_attn.v_proj.bias)


PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())
WHISPERS = [name for name in PUBLISHED if name.startswith("whisper")]


@pytest.mark.parametrize("name", WHISPERS)
def test_published_size(name: str) -> None:
    figures = transformers.WhisperConfig(**PUBLISHED[name]["kwargs"])
    check_published_size(f"audio_encoder/{name}", WhisperEncoder, figures, parameters=PUBLISHED[name]["parameters"])
