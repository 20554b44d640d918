"""Qwen2-Audio as a whole: tokens, logits, gradients and folders are those of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import (
    VOCAB_SIZE,
    Given,
    Talk,
    check_whole_parity,
    check_whole_round_trip,
    compose,
    samples_of,
    save_tokenizer,
    token_id,
)
from scipy.io import wavfile

from loongforge_core.config.composition import Composition
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import our_model, redraw
from loongforge_core.weights.load import import_model

TOKENS = ("<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")

MODEL: dict[str, Any] = {
    "model_type": "qwen2_audio",
    "audio_encoder": {
        "type": "qwen2_audio",
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 40,
        "num_attention_heads": 4,
        "num_mel_bins": 8,
        "max_source_positions": 50,
    },
    "audio_projector": {"type": "linear"},
    "foundation": {
        "type": "qwen2",
        "num_layers": 2,
        "hidden_size": 24,
        "ffn_hidden_size": 48,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 512,
        "layernorm_epsilon": 1e-5,
        "rotary_base": 1e4,
    },
}
AUDIO = {"model_type": "qwen2_audio_encoder", "encoder_layers": 2, "d_model": 32, "encoder_ffn_dim": 40, "encoder_attention_heads": 4}
AUDIO |= {"num_mel_bins": 8, "max_source_positions": 50}
TEXT = {"model_type": "qwen2", "num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 512, "rms_norm_eps": 1e-5}

SECONDS = {"long.wav": 0.8, "short.wav": 0.31, "whole.wav": 1.0}
RATE = 16_000


def reference() -> Any:
    config = transformers.Qwen2AudioConfig(audio_config=AUDIO, text_config=TEXT, audio_token_index=token_id("<|AUDIO|>", TOKENS))
    return transformers.Qwen2AudioForConditionalGeneration(config)


def template() -> str:
    """The published one, which transformers keeps for folders without their own."""
    source: str = transformers.Qwen2AudioProcessor.default_chat_template.fget(None)
    return source


def tokenizer_in(folder: Path) -> Path:
    return save_tokenizer(folder / "tokenizer", TOKENS, template(), eos_token="<|im_end|>", pad_token="<|im_end|>")


def talks_in(folder: Path) -> list[Talk]:
    """Sounds of unequal lengths, two in one sample, the longest possible alone; text alone."""
    for index, (name, seconds) in enumerate(SECONDS.items()):
        samples = np.random.default_rng(index).integers(-20_000, 20_000, int(seconds * RATE), dtype=np.int16)
        wavfile.write(folder / name, RATE, samples)
    return [
        Talk([("audio", "long.wav"), "Is it longer than ", ("audio", "short.wav"), "?"], "Yes"),
        Talk(["Hi"], "Hello there"),
        Talk(["What is this: ", ("audio", "whole.wav")], "Noise"),
    ]


def published(talks: list[Talk], folder: Path, ours: Composition) -> Given:
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(Path(str(ours.run.tokenizer)))
    processor = transformers.Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer, chat_template=template())
    texts = [processor.apply_chat_template(talk.chat(), tokenize=False) for talk in talks]
    sounds = [wavfile.read(folder / path)[1].astype(np.float32) / 32768 for talk in talks for path in talk.items("audio")]
    inputs = processor(text=texts, audio=sounds, sampling_rate=RATE, padding=True, padding_side="right", return_tensors="pt")
    names = ("input_ids", "attention_mask", "input_features", "feature_attention_mask")
    return Given(samples_of(ours, talks, folder), {name: inputs[name] for name in names}, {"audio": token_id("<|AUDIO|>", TOKENS)})


def test_parity_through_the_published_processor(tmp_path: Path) -> None:
    """Of sounds of unequal lengths, several to a sample, padded and packed; the template numbers them."""
    ours = compose(MODEL, tokenizer_in(tmp_path))
    given = published(talks_in(tmp_path), tmp_path, ours)
    given.check_tokens()
    assert [span.num_tokens for sample in given.samples for span in sample.spans] == [20, 8, 25]
    check_whole_parity(ours, reference(), given, tmp_path)


def test_round_trip(tmp_path: Path) -> None:
    export = check_whole_round_trip(compose(MODEL, tokenizer_in(tmp_path)), reference(), tmp_path)
    processor = transformers.AutoProcessor.from_pretrained(export)
    assert isinstance(processor, transformers.Qwen2AudioProcessor)
    assert (processor.feature_extractor.feature_size, processor.feature_extractor.nb_max_frames) == (8, 100)
    inputs = processor(
        text="<|audio_bos|><|AUDIO|><|audio_eos|>?", audio=[np.zeros(RATE, np.float32)], sampling_rate=RATE, return_tensors="pt"
    )
    answer = transformers.Qwen2AudioForConditionalGeneration.from_pretrained(export).generate(**inputs, max_new_tokens=2)
    assert answer.shape[1] > inputs["input_ids"].shape[1]


def test_published_folders_are_read(tmp_path: Path) -> None:
    """With the keys that earlier versions of transformers wrote."""
    theirs, ours = reference(), compose(MODEL)
    redraw(theirs)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    text = config["text_config"]
    text |= {"rope_theta": text.pop("rope_parameters")["rope_theta"], "use_mrope": False, "sliding_window": 32768}
    del text["layer_types"]
    config |= {"ignore_index": -100, "vocab_size": VOCAB_SIZE, "torch_dtype": "bfloat16"}
    config["audio_config"] |= {"init_std": 0.02}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with our_model(ours) as built:
        import_model(tmp_path, built.target, ours, Registry.discover())
        assert torch.equal(built.target["audio_projector"].linear.weight, theirs.model.multi_modal_projector.linear.weight)


def test_a_tied_foundation_has_no_published_format(tmp_path: Path) -> None:
    """transformers' class ties nothing, whatever config.json says."""
    tied = compose({**MODEL, "foundation": {**MODEL["foundation"], "untie_embeddings_and_output_weights": False}})
    with pytest.raises(AssertionError, match="has no published format"), our_model(tied):
        pass
