"""What `validate` says of settings that are wrong, and that it imports neither torch nor transformers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loongforge_hf.hf_encoder.config import ARCHITECTURES, HfEncoderConfig
from pydantic import ValidationError

from loongforge_core.config.check import composition_from, load_composition
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Registry

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelled key": ({"config": {"num_hiden_layers": 2}}, r"config.num_hiden_layers is no setting of this model.*num_hidden_layers"),
    "dropout": ({"config": {"hidden_dropout_prob": 0.1}}, r"is always 0.0 here: training and evaluation compute the same"),
    "colours": ({"config": {"num_channels": 1}}, r"config.num_channels is always 3 here"),
    "a head": ({"config": {"encoder_stride": 8}}, r"config.encoder_stride changes no feature"),
    "a word": ({"config": {"hidden_size": "wide"}}, r"config.hidden_size is 'wide', expected a whole number above 0"),
    "zero": ({"config": {"num_hidden_layers": 0}}, r"expected a whole number above 0"),
    "true": ({"config": {"num_hidden_layers": True}}, r"expected a whole number above 0"),
    "a number": ({"config": {"qkv_bias": 1}}, r"expected true or false"),
    "an activation": ({"config": {"hidden_act": "gellu"}}, r"config.hidden_act is 'gellu', expected 'gelu' or "),
    "heads": ({"config": {"num_attention_heads": 7}}, r"config.hidden_size 768 is not a multiple of num_attention_heads 7"),
    "sizes": ({"image_size": 384}, r"image_size 384 is not config.image_size 224, and vit takes images of one size only"),
    "no patch": ({"config": {"image_size": 8}}, r"a picture of 8 x 8 pixels has no whole patch of 16 x 16"),
    "two colours": ({"image_mean": [0.5, 0.5]}, r"image_mean has 2 numbers, expected three"),
    "cut": ({"resize_to": 100}, r"resize_to 100 is less than the side 224"),
    "seconds": ({"max_seconds": 3.0}, r"max_seconds may not be set: vit sees images"),
    "prefix": ({"name": "ijepa", "prefix_tokens": "kept"}, r"prefix_tokens may not be 'kept': ijepa has none"),
    "mean": ({"name": "wavlm", "image_size": 3}, r"image_size may not be set: wavlm hears sounds"),
    "normalised": ({"name": "ast", "normalise": True}, r"normalise may not be set: ast takes spectrograms"),
    "frames": ({"name": "ast", "max_seconds": 1.0}, r"max_seconds may not be set: ast takes as many frames as config.max_length says"),
    "short": ({"name": "hubert", "max_seconds": 0.02}, r"a sound of 320 samples is too short for the convolutions: expected 400 at least"),
    "lists": ({"name": "hubert", "config": {"conv_dim": [8, 8]}}, r"lists must be equally long: conv_dim has 2, conv_kernel has 7"),
    "a list": ({"name": "hubert", "config": {"conv_dim": 8}}, r"config.conv_dim is 8, expected a list of whole numbers above 0"),
    "stages": ({"name": "swin", "config": {"num_layers": 3}}, r"config.num_layers follows from other settings"),
    "windows": (
        {"name": "swin", "image_size": 180},
        r"180 x 180 pixels is too small: 6 x 6 patches are left in the last stage, and window_size is 7",
    ),
    "rotary": ({"name": "dinov3_vit", "config": {"num_attention_heads": 128}}, r"is not a multiple of 4 x num_attention_heads 128"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(ValidationError, match=message):
        HfEncoderConfig(**{"name": "vit", **given})


def test_a_name_that_is_not_in_the_list_has_a_nearest() -> None:
    with pytest.raises(ConfigError, match=r"dinov2"):
        composition_from({"model": {"image_encoder": {"type": "hf_encoder", "name": "dinov22"}}}, Registry.discover())


def test_a_model_that_hears_is_refused_where_pictures_are_seen() -> None:
    with pytest.raises(ConfigError, match=r"model.image_encoder.*with these settings hf_encoder encodes audio, not image"):
        composition_from({"model": {"image_encoder": {"type": "hf_encoder", "name": "wav2vec2"}}}, Registry.discover())
    slots = {"image_encoder": {"type": "hf_encoder", "name": "vit", "also_encodes": ["audio"]}}
    with pytest.raises(ConfigError, match=r"encodes image, not audio"):
        composition_from({"model": slots}, Registry.discover())
    assert composition_from({"model": {"audio_encoder": {"type": "hf_encoder", "name": "wav2vec2"}}}, Registry.discover())


def test_the_page_says_what_is_so(tmp_path: Path) -> None:
    """Its compositions are right, and its table has every model, with its sizes and its tokens."""
    page = (Path(__file__).parents[3] / "docs/hf_encoder.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert snippets
    for snippet in snippets:
        (tmp_path / "snippet.yaml").write_text(snippet)
        assert load_composition(str(tmp_path / "snippet.yaml"), registry=Registry.discover()).encoder("image").name == "dinov2"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    table = {name.strip("`"): (published, tokens) for name, published, tokens, *rest in rows if rest and name.strip("`") in ARCHITECTURES}
    assert list(table) == list(ARCHITECTURES)
    for name, (published, tokens) in table.items():
        config = HfEncoderConfig(name=name)
        assert published == config.architecture.published
        second = {"samples": (16_000,), "paired spectrogram": (49,)}
        size = config.fixed_item_size or second[config.sounds.kind]
        grid = config.token_grid(size)
        assert tokens == (f"{grid[0]} x {grid[1]}" if len(grid) == 2 else "50 a second") and (len(grid) == 2 or grid == (49,))


def test_config_and_processor_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, loongforge_hf.hf_encoder.config, loongforge_hf.hf_encoder.processor; print({'torch', 'transformers'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
