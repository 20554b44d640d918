"""Mistakes of somebody who composes installed parts by hand: each is one message, which says where, what was given and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from loongforge_core.config.check import load_composition
from loongforge_core.errors import ConfigError, Issue
from loongforge_core.registry.registry import Registry

QWEN3_VL = """\
defaults:
  - image_encoder@model.image_encoder: qwen3_vl_vit_2b
  - image_projector@model.image_projector: qwen3_vl_adapter
  - qwen3@model.foundation: qwen3_1_7b
  - _self_
model:
  model_type: qwen3_vl
  foundation: {mrope_section: [24, 20, 20], mrope_interleaved: true}
"""

INTERN_VL = """\
defaults:
  - ../../models/image_encoder@model.image_encoder: intern_vit_0.3b
  - ../../models/image_projector@model.image_projector: intern_mlp_adapter
  - ../../models/internlm2.5@model.foundation: internlm2_5_8b
  - _self_
model:
  model_type: intern_vl
  loss_func: ${loss_func:loss_func_internvl}
"""


@pytest.fixture(scope="module")
def installed() -> Registry:
    return Registry.discover()


def wrong(registry: Registry, folder: Path, text: str) -> tuple[Issue, ...]:
    config = folder / "my.yaml"
    config.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_composition(str(config), registry=registry)
    return caught.value.issues


@pytest.mark.parametrize("text", [QWEN3_VL, INTERN_VL])
def test_without_a_mistake_they_are_compositions(installed: Registry, tmp_path: Path, text: str) -> None:
    (tmp_path / "my.yaml").write_text(text)
    assert load_composition(str(tmp_path / "my.yaml"), registry=installed).modalities == ("image",)


@pytest.mark.parametrize(
    ("added", "key", "line", "message"),
    [
        (
            "  image_encoder: {also_encodes: [vidoe]}",
            "model.image_encoder.also_encodes.0",
            9,
            "encoder 'qwen3_vl' takes image, video, not vidoe; did you mean 'video'?",
        ),
        (
            "  image_encoder: {also_encodes: video}",
            "model.image_encoder.also_encodes",
            9,
            "got 'video' (text), expected a list, such as ['video']",
        ),
        (
            "  image_encoder: {also_encodes: [video, video]}",
            "model.image_encoder.also_encodes",
            9,
            "video is encoded by image_encoder already; leave it out here",
        ),
        (
            "  vidoe_encoder: {type: qwen3_vl}",
            "model.vidoe_encoder.type",
            9,
            "encoder 'qwen3_vl' takes image, video, not vidoe; did you mean 'video'?",
        ),
        ("  video_encoder: qwen3_vl", "model.video_encoder", 9, "rice_vit, sensor, siglip, whisper; write {type: qwen3_vl}"),
        (
            "  image_encoder: {type: qwen3_vl_vit_4b}",
            "model.image_encoder.type",
            9,
            "; qwen3_vl_vit_4b is a published size: write `- image_encoder@model.image_encoder: qwen3_vl_vit_4b` under `defaults`",
        ),
        (
            "  pretrained: /folder",
            "model.pretrained",
            9,
            "unknown key; did you mean 'foundation.pretrained' or 'image_encoder.pretrained' or 'image_projector.pretrained'?",
        ),
        (
            "  image_encoder: {pretrained: Qwen/Qwen3-VL-2B-Instruct}",
            "model.image_encoder.pretrained",
            9,
            "; nothing is downloaded: give the path of a folder",
        ),
        (
            "  audio_encoder: {type: whisper, hidden_size: 2048, num_attention_heads: 8}",
            "model.audio_encoder",
            9,
            "recipe 'qwen3_vl' does not say how an item of modality 'audio' is written, only of image, video; without `model_type` an item",
        ),
        ("train: {packing: true}", "train.packing", 9, "unknown key; did you mean 'data.packing'?"),
        ("image_encoder: {type: siglip}", "image_encoder", 9, "a slot is a part of `model`: write model.image_encoder, or `GROUP@model."),
        ("data: {augment: {vidoe: {}}}", "data.augment.vidoe", 9, "model has no vidoe_encoder; valid: image"),
    ],
)
def test_one_mistake_in_a_free_composition(installed: Registry, tmp_path: Path, added: str, key: str, line: int, message: str) -> None:
    (issue,) = wrong(installed, tmp_path, QWEN3_VL + added + "\n")
    assert (issue.key, issue.where) == (key, f"{tmp_path / 'my.yaml'}:{line}")
    assert message in issue.message


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("rope: 1", "rotary_scaling: yarn", 8, "expected a mapping of keys to values, with type 'linear', 'dynamic', 'llama3', 'yarn'"),
        ("rope: 1", "rotary_scaling: {factor: 2}", 8, "not given, and it has no default; expected 'linear', 'dynamic', 'llama3', 'yarn'"),
        ("rope: 1", "add_qkv_bias: true", 8, "got true, expected false"),
        ("rope: 1", "freeze: transformer.*", 8, "(text), expected true or false or a list, such as ['transformer.*']"),
        ("[24, 20, 20], mrope_interleaved: true, rope: 1", "24", 8, "got 24, expected a list"),
        ("[24, 20, 20], mrope_interleaved: true, rope: 1", "'24, 20, 20'", 8, "got '24, 20, 20' (text), expected a list"),
        (
            "mrope_section: [24, 20, 20], mrope_interleaved: true, rope: 1",
            "",
            7,
            "axes, but qwen3 in foundation takes 1; positions of three axes",
        ),
    ],
)
def test_one_mistake_in_a_language_model(installed: Registry, tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    (issue,) = wrong(installed, tmp_path, QWEN3_VL.replace("true}", "true, rope: 1}").replace(old, new))
    assert issue.where.endswith(f"my.yaml:{line}")
    assert message in issue.message
    assert "such as" not in issue.message or "such as" in message


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("${loss_func:", "${lossfunc:", 8, "there is no ${lossfunc:...}; did you mean 'loss_func'?"),
        ("internlm2_5_8b", "qwen2_5_7b", 4, "no 'qwen2_5_7b' in the group 'internlm2.5'; 'qwen2_5_7b' is in the group 'qwen2.5'"),
        ("models/internlm2.5@", "models/foundation@", 4, "no group 'foundation'; 'internlm2_5_8b' is in the group 'internlm2.5'"),
        ("${loss_func:loss_func_internvl}", "${loss_func:[0]*1}", 8, "; an argument with signs in it is quoted, such as ${moe_freq:"),
        (": intern_vit_0.3b", "", 2, "'image_encoder' is a group of files: write `image_encoder@model.SLOT: NAME`; valid: clip_l14_336, "),
        ("@model.foundation", "@model.fundation", 4, "no slot has this name; slots are foundation, <modality>_encoder"),
    ],
)
def test_one_mistake_in_a_file_of_the_original_design(
    installed: Registry, tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    issues = {issue.where: issue.message for issue in wrong(installed, tmp_path, INTERN_VL.replace(old, new))}
    assert message in issues[f"{tmp_path / 'my.yaml'}:{line}"]


def test_what_is_no_modality_is_one_message(installed: Registry, tmp_path: Path) -> None:
    text = QWEN3_VL.replace("model_type: qwen3_vl", "model_type: llava").replace("mrope_section: [24, 20, 20], mrope_interleaved: true", "")
    issues = wrong(installed, tmp_path, text + "  image_encoder: {type: qwen3vl, also_encodes: [{}]}\n")
    assert [issue.key for issue in issues] == ["model.image_encoder.also_encodes.0", "model.image_encoder.type"]


def test_a_default_that_is_not_there_cannot_be_replaced(installed: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        load_composition("digits", ["image_encoder@model.image_encoder=siglip_base_224"], registry=installed)
    (issue,) = caught.value.issues
    assert (issue.key, issue.where) == ("image_encoder@model.image_encoder", "command line")
    assert (
        issue.message
        == "digits.yaml has no such default, and nothing to replace; to add one, write +image_encoder@model.image_encoder=NAME"
    )


def test_a_slot_that_is_wrong_as_a_whole_is_where_its_default_is(installed: Registry, tmp_path: Path) -> None:
    text = QWEN3_VL.replace(
        "image_projector@model.image_projector: qwen3_vl_adapter", "image_projector@model.audio_projector: llava_mlp_adapter"
    )
    issues = {issue.key: issue for issue in wrong(installed, tmp_path, text)}
    assert issues["model.audio_projector"].where == f"{tmp_path / 'my.yaml'}:3"
