"""Qwen2-Audio's encoder: parity with transformers on sounds of unequal length, token counts, independence of items, round trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from loongforge_audio.qwen2_audio.config import Qwen2AudioConfig
from loongforge_audio.whisper.processor import WhisperProcessor
from scipy.io import wavfile
from torch import Tensor
from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

from loongforge_core.layers.interfaces import Items
from loongforge_core.testing.parity import check_encoder, check_outputs
from loongforge_core.testing.reference import ours, redraw
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size
from loongforge_core.weights.import_hf import import_hf

MAX_FRAMES = 40
OURS = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_mel_bins": 10,
    "max_source_positions": MAX_FRAMES // 2,
}
THEIRS = {
    "encoder_layers": 2,
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "num_mel_bins": 10,
    "max_source_positions": MAX_FRAMES // 2,
}
TEXT = {
    "model_type": "qwen2",
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 40,
}
LENGTHS: dict[str, tuple[int, ...]] = {
    "unequal": (9, 3, 40, 17, 12),
    "up to the end": (39, 38, 37, 40),
    "equal and even": (16, 16),
    "equal and odd": (13, 13, 13),
}


def both() -> tuple[Qwen2AudioConfig, transformers.PreTrainedModel]:
    return Qwen2AudioConfig(**OURS), Qwen2AudioEncoder(Qwen2AudioEncoderConfig(**THEIRS))


def padded(number: int) -> Tensor:
    """`[b, T, M]`. What stands behind a sound is noise here: none of it may matter but the two frames that the convolutions see."""
    return torch.randn(number, MAX_FRAMES, 10, generator=torch.Generator().manual_seed(3))


def sounds(lengths: tuple[int, ...]) -> Items:
    sizes = tuple((length,) for length in lengths)
    config = Qwen2AudioConfig(**OURS)
    rows = [features[: config.num_rows(size)] for features, size in zip(padded(len(lengths)), sizes)]
    return Items({"input_features": torch.cat(rows)}, sizes)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=list(LENGTHS))
def test_parity(lengths: tuple[int, ...], tmp_path: Path) -> None:
    def features(reference: Any) -> Tensor:
        positions, tokens = reference._get_feat_extract_output_lengths(torch.tensor(lengths))
        seen_bs = torch.arange(MAX_FRAMES // 2) < positions[:, None]
        mask = seen_bs[:, None, None].expand(-1, 1, MAX_FRAMES // 2, -1)
        hidden = reference(padded(len(lengths)).transpose(1, 2), attention_mask=mask).last_hidden_state
        return torch.cat([sound[:count] for sound, count in zip(hidden, tokens.tolist())])

    check_encoder(*both(), tmp_path, sounds(lengths), features)


def test_round_trip(tmp_path: Path) -> None:
    check_round_trip(*both(), tmp_path)


def test_as_many_tokens_as_the_config_counts() -> None:
    lengths = tuple(np.random.default_rng(0).integers(3, MAX_FRAMES, 1000, endpoint=True).tolist())
    with ours(Qwen2AudioConfig(**{**OURS, "num_layers": 1})) as built, torch.no_grad():
        redraw(built.target)
        for start in range(0, 1000, 50):
            items = sounds(lengths[start : start + 50])
            emitted = built.target(items)
            assert emitted.grids == tuple(built.config.token_grid(size) for size in items.sizes)
            assert emitted.hidden_NW.shape == (sum(map(built.config.num_tokens, items.sizes)), 32)
    reference = Qwen2AudioEncoder._get_feat_extract_output_lengths(None, torch.tensor(lengths))[1]
    assert [built.config.num_tokens((length,)) for length in lengths] == reference.tolist()
    assert built.config.num_tokens(built.config.largest_item_size("audio")) == max(reference.tolist())


def test_items_do_not_see_each_other() -> None:
    lengths = (9, 3, 40, 17, 12)
    with ours(Qwen2AudioConfig(**OURS)) as built:
        redraw(built.target)
        together = sounds(lengths)
        rows = [built.config.num_rows(size) for size in together.sizes]
        given = together.inputs["input_features"].requires_grad_(True)
        alone = [built.target(Items({"input_features": part}, (size,))).hidden_NW for part, size in zip(given.split(rows), together.sizes)]
        emitted = built.target(together).hidden_NW
        torch.testing.assert_close(emitted, torch.cat(alone), atol=1e-5, rtol=0)
        first = sum(map(built.config.num_tokens, together.sizes[:2]))
        emitted[:first].square().sum().backward()
        assert given.grad is not None
        seen = given.grad.abs().sum(1).split(rows)
        assert all(frames.any() for frames in seen[:2]) and not any(frames.any() for frames in seen[2:])


def test_a_sound_too_short_or_too_long_is_refused_by_its_length() -> None:
    config = Qwen2AudioConfig(**OURS)
    for frames in (0, 2, 41):
        with pytest.raises(ValueError, match=f"a sound of {frames} frames of 10 ms: expected 3 to 40"):
            config.token_grid((frames,))


def test_reads_its_part_of_a_whole_model(tmp_path: Path) -> None:
    config = transformers.Qwen2AudioConfig(audio_config={"model_type": "qwen2_audio_encoder", **THEIRS}, text_config=TEXT)
    whole = transformers.Qwen2AudioForConditionalGeneration(config)
    whole.save_pretrained(tmp_path)
    with ours(Qwen2AudioConfig(**OURS)) as built:
        import_hf(tmp_path, built.target, built.table, built.config)
        assert torch.equal(built.target.final_layernorm.weight, whole.model.audio_tower.layer_norm.weight)
        assert torch.equal(built.target.conv1.weight, whole.model.audio_tower.conv1.weight)


def test_from_files_to_features_as_the_whole_model_makes_them(tmp_path: Path) -> None:
    """Through both sides' processors: the reference is asked what it hands to its projector, for sounds padded to two seconds."""
    config = Qwen2AudioConfig(**{**OURS, "num_mel_bins": 80, "max_source_positions": 100})
    theirs = {**THEIRS, "num_mel_bins": 80, "max_source_positions": 100}
    whole = transformers.Qwen2AudioForConditionalGeneration(
        transformers.Qwen2AudioConfig(audio_config={"model_type": "qwen2_audio_encoder", **theirs}, text_config=TEXT, audio_token_index=39)
    ).eval()
    redraw(whole)
    whole.save_pretrained(tmp_path / "whole")
    random = np.random.default_rng(0)
    waves = [(random.normal(size=length) * np.linspace(0.3, 0.01, length)).astype(np.float32) for length in (4321, 31_990, 16_000, 700)]
    processor = WhisperProcessor(config)
    items = []
    for number, wave in enumerate(waves):
        wavfile.write(tmp_path / f"{number}.wav", 16_000, wave)
        items.append(processor(tmp_path / f"{number}.wav"))
    with ours(config) as built, torch.no_grad():
        import_hf(tmp_path / "whole", built.target, built.table, built.config)
        rows = torch.from_numpy(np.concatenate([item.inputs["input_features"] for item in items]))
        features = built.target(Items({"input_features": rows}, tuple(item.size for item in items)))
    extractor = transformers.WhisperFeatureExtractor(**processor.published())
    given = extractor(waves, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
    projected: list[Tensor] = []
    whole.model.multi_modal_projector.register_forward_hook(lambda _, inputs, __: projected.append(inputs[0]))
    counts = [length for (length,) in features.grids]
    ids = torch.tensor([[1, *[39] * sum(counts), 2]])
    with torch.no_grad():
        whole(input_ids=ids, input_features=given.input_features, feature_attention_mask=given.attention_mask)
    check_outputs(features.hidden_NW, torch.cat([sound[:count] for sound, count in zip(projected[0], counts)]))


def test_published_size() -> None:
    published = json.loads((Path(__file__).parent / "published.json").read_text())["qwen2_audio_encoder"]
    reference = Qwen2AudioEncoder, Qwen2AudioEncoderConfig(**published["kwargs"])
    check_published_size("audio_encoder/qwen2_audio_encoder", *reference, parameters=published["parameters"])
