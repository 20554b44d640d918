"""Folders of classes that hold one of these models, folders of long ago, and folders that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loongforge_hf.hf_encoder.config import HfEncoderConfig
from safetensors.torch import load_file, save_file
from tiny_models import TINY, VIT, WAVES, ours_of, theirs_of

from loongforge_core.errors import WeightsError
from loongforge_core.testing.reference import ours, redraw
from loongforge_core.weights.import_hf import import_hf

SPEECH = {"vocab_size": 12, "proj_codevector_dim": 8, "codevector_dim": 8, "num_codevectors_per_group": 4}
SIGLIP = {"vision_config": VIT, "text_config": {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 20}}
SIGLIP["text_config"] |= {"intermediate_size": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

# Named after ours: the class that a folder is of, and settings that published folders of it have. With masking, as in pretraining.
HOLDERS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("vit", "ViTForImageClassification", "ViTConfig", VIT),
    ("vit", "ViTModel", "ViTConfig", VIT),
    ("vit", "ViTForMaskedImageModeling", "ViTConfig", VIT),
    ("deit", "DeiTForImageClassificationWithTeacher", "DeiTConfig", VIT),
    ("beit", "BeitForImageClassification", "BeitConfig", {**VIT, "use_relative_position_bias": True}),
    ("dinov2", "Dinov2ForImageClassification", "Dinov2Config", TINY["dinov2"]),
    ("siglip", "SiglipModel", "SiglipConfig", SIGLIP),
    ("convnextv2", "ConvNextV2ForImageClassification", "ConvNextV2Config", {**TINY["convnextv2"], "num_stages": 2}),
    ("swin", "SwinForImageClassification", "SwinConfig", TINY["swin"]),
    ("wav2vec2", "Wav2Vec2ForPreTraining", "Wav2Vec2Config", {**WAVES, **SPEECH}),
    ("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", {**WAVES, **SPEECH}),
    ("hubert", "HubertForSequenceClassification", "HubertConfig", {**WAVES, "use_weighted_layer_sum": True}),
    ("wavlm", "WavLMModel", "WavLMConfig", TINY["wavlm"]),
    ("data2vec_audio", "Data2VecAudioForCTC", "Data2VecAudioConfig", {**TINY["data2vec_audio"], "vocab_size": 12}),
    ("wav2vec2_bert", "Wav2Vec2BertModel", "Wav2Vec2BertConfig", TINY["wav2vec2_bert"]),
    ("ast", "ASTForAudioClassification", "ASTConfig", TINY["ast"]),
]


@pytest.mark.parametrize(("name", "holder", "config_class", "settings"), HOLDERS, ids=[holder for _, holder, *_ in HOLDERS])
def test_folders_of_classes_that_hold_it_are_read(name: str, holder: str, config_class: str, settings: Any, tmp_path: Path) -> None:
    """Dropout and masking in config.json mean nothing here; heads are left."""
    whole = getattr(transformers, holder)(getattr(transformers, config_class)(**settings))
    redraw(whole)
    whole.save_pretrained(tmp_path)
    held = whole.vision_model if holder == "SiglipModel" else getattr(whole, whole.base_model_prefix, whole)
    with ours(ours_of(name)) as built:
        filled = import_hf(tmp_path, built.target, built.table, built.config)
        state = built.model.model.state_dict()
        assert filled == {f"model.{key}" for key in state}
        theirs = held.state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in state.items())


def test_a_norm_of_weights_under_its_old_names_is_read(tmp_path: Path) -> None:
    """Folders of wav2vec 2.0, HuBERT and WavLM were written when torch called its two parts g and v."""
    config = ours_of("wav2vec2")
    model = theirs_of(config)
    redraw(model)
    model.save_pretrained(tmp_path)
    new = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
    old = {f"{new}0": "encoder.pos_conv_embed.conv.weight_g", f"{new}1": "encoder.pos_conv_embed.conv.weight_v"}
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({f"wav2vec2.{old.get(name, name)}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with ours(config) as built:
        import_hf(tmp_path, built.target, built.table, built.config)
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in built.model.model.state_dict().items())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "code": (
        {"auto_map": {"AutoModel": "modeling_mine.Mine"}},
        r"auto_map.AutoModel is 'modeling_mine.Mine' in the file, but no table knows",
    ),
    "another width": ({"intermediate_size": 25}, r"intermediate_size is 25 in the file, but our config.intermediate_size says 24"),
    "a default": ({"qkv_bias": False}, r"qkv_bias is False in the file, but our config.qkv_bias says True"),
    "colours": ({"num_channels": 1}, r"num_channels is 1 in the file; only 3 is supported"),
    "an unknown key": ({"hidden_sized": 16}, r"hidden_sized is 16 in the file, but no table knows this key"),
    "another model": ({"model_type": "deit"}, r"model_type is 'deit', expected 'vit'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_says_another_thing_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    config = HfEncoderConfig(name="vit", config=VIT)
    theirs_of(config).save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**tree, **changes}))
    with ours(config) as built, pytest.raises(WeightsError, match=message):
        import_hf(tmp_path, built.target, built.table, built.config)
