"""Every error in a tree is said at once, each in its place, with what was given, expected and nearest."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from toy_plugin.config import EarConfig, EyeConfig
from trees import changed, issue, issues

from loongforge_core.component import ComponentSpec
from loongforge_core.config.check import composition_from, load_composition, missing_backends
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Registry


def test_an_encoder_that_cannot_take_its_own_size_is_a_message(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, size: Any) -> Any:
        raise ValueError("too small")

    monkeypatch.setattr(EyeConfig, "token_grid", refuse)
    where, said = issue(registry)
    assert where == "model.image_encoder" and said == "cannot take an item of its own size, 4 x 4: too small"


def test_a_modality_is_encoded_once(registry: Registry) -> None:
    video = {"model__video_encoder": {"type": "eye"}, "model__video_projector": {"type": "bridge"}}
    where, said = issue(registry, model__image_encoder__also_encodes=["video"], **video)
    assert (where, said) == (
        "model.image_encoder.also_encodes",
        "video is encoded by video_encoder already; leave it out here, or take video_encoder out",
    )


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        # unknown keys
        ({"model__foundation__num_layer": 3}, "model.foundation.num_layer", "unknown key; did you mean 'num_layers'?"),
        ({"model__foundation__freze": True}, "model.foundation.freze", "unknown key; did you mean 'freeze'?"),
        ({"model__foundation__rope": {"bass": 1.0}}, "model.foundation.rope.bass", "unknown key; did you mean 'base'?"),
        ({"model__model_typ": "story"}, "model.model_typ", "unknown key; did you mean 'model_type'?"),
        ({"train__lerning": 1}, "train.lerning", "unknown key; valid: adam_beta1"),
        ({"seq_length": 5}, "seq_length", "unknown key; did you mean 'train.seq_length'?"),
        ({"lr": 5}, "lr", "unknown key; did you mean 'train.lr'?"),
        ({"modle": {}}, "modle", "unknown key; did you mean 'model'?"),
        # wrong types and values
        ({"model__foundation__num_layers": "2"}, "model.foundation.num_layers", "got '2' (text), expected a whole number"),
        ({"model__foundation__num_layers": 2.5}, "model.foundation.num_layers", "got 2.5, expected a whole number"),
        ({"model__foundation__num_layers": True}, "model.foundation.num_layers", "got true, expected a whole number"),
        ({"model__foundation__num_layers": 0}, "model.foundation.num_layers", "got 0, expected greater than 0"),
        ({"model__image_encoder__image_size": [4]}, "model.image_encoder.image_size.1", "not given"),
        ({"model__image_encoder__freeze": 3}, "model.image_encoder.freeze", "got 3, expected true or false or a list"),
        ({"model__image_encoder__freeze": ["a", 3]}, "model.image_encoder.freeze.1", "got 3, expected text"),
        ({"model__image_projector__activation": "gleu"}, "model.image_projector.activation", "did you mean 'gelu'?"),
        ({"train__lr": "1e-4x"}, "train.lr", "got '1e-4x' (text), expected a number"),
        ({"train__lr": float("nan")}, "train.lr", "expected a finite number"),
        ({"train": 3}, "train", "got 3, expected a mapping"),
        ({"model": 3}, "model", "got 3: expected a mapping of slots"),
        ({"model": {}}, "model", "no slot is filled"),
        ({"model__foundation__num_layers": None}, "model.foundation.num_layers", "not given, and it has no default"),
        # components
        ({"model__image_encoder__type": "eey"}, "model.image_encoder.type", "no encoder 'eey' is installed; did you mean 'eye'?"),
        ({"model__image_encoder__type": "bridge"}, "model.image_encoder.type", "'bridge' is a projector, not an encoder"),
        ({"model__image_encoder__type": "ear"}, "model.image_encoder.type", "encoder 'ear' takes audio, not image"),
        ({"model__image_encoder__type": 3}, "model.image_encoder.type", "got 3, expected text"),
        ({"model__image_encoder__type": None}, "model.image_encoder", "has no `type`, the name of an installed encoder: ear, eye"),
        ({"model__image_encoder": 3}, "model.image_encoder", "got 3, expected a mapping with `type`"),
        ({"model__model_type": "stroy"}, "model.model_type", "no recipe 'stroy' is installed; did you mean 'story'?"),
        ({"model__image_encodr": {"type": "eye"}}, "model.image_encodr", "did you mean 'image_encoder'?"),
        ({"model__image_encoder": None}, "model.image_projector", "there is no image_encoder for it"),
        # widths
        (
            {"model__image_projector__input_size": 7},
            "model.image_projector.input_size",
            "widths do not fit: 7 is written, but image_encoder (eye) emits features 8 wide, and 7 != 8; write 8",
        ),
        (
            {"model__image_projector__hidden_size": 7},
            "model.image_projector.hidden_size",
            "widths do not fit: 7 is written, but foundation (brain) takes embeddings 16 wide, and 7 != 16",
        ),
        (
            {"model__image_projector__num_levels": 3},
            "model.image_projector.num_levels",
            "levels do not fit: 3 is written, but image_encoder (eye) emits 0; write 0, or leave it out",
        ),
        (
            {"model__image_projector": None},
            "model.image_encoder",
            "eye emits features 8 wide, but foundation (brain) takes embeddings 16 wide, and 8 != 16; fill image_projector with a",
        ),
        ({"model__foundation": None}, "model.image_projector", "`hidden_size` is not written"),
        # tokens and levels
        (
            {"model__image_projector__type": "fold", "model__image_encoder__image_size": [6, 4]},
            "model.image_projector",
            "does not fit image_encoder (eye): 3 rows cannot be folded in two",
        ),
        ({"train__seq_length": 3}, "train.seq_length", "one image gives 4 tokens, and a sample has at most 3"),
        # the recipe
        (
            {"model__model_type": "story", "model__video_encoder": {"type": "eye", "width": 16}},
            "model.video_encoder",
            "recipe 'story' does not say how an item of modality 'video' is written",
        ),
        # layout and batch
        ({"parallel__image_encodr": {}}, "parallel.image_encodr", "did you mean 'image_encoder'?"),
        ({"parallel__audio_encoder": {}}, "parallel.audio_encoder", "model has no encoder slot of this name"),
        ({"parallel__encoders": {}}, "parallel.encoders", "model has no encoder slot of this name"),
        ({"parallel__image_encoder": 3}, "parallel.image_encoder", "expected a mapping"),
        ({"parallel__image_encoder": {"layut": 3}}, "parallel.image_encoder.layut", "unknown key; did you mean 'layout'?"),
        ({"train__micro_batch_size": 3}, "train.global_batch_size", "8 is no multiple of micro_batch_size 3 = 3; nearest valid: 9"),
        # data
        ({"data__augment": {"image": {"radios": 1}}}, "data.augment.image.radios", "unknown key; did you mean 'radius'?"),
        (
            {"model__image_encoder__also_encodes": ["vidoe"]},
            "model.image_encoder.also_encodes.0",
            "takes image, video, not vidoe; did you mean 'video'?",
        ),
        ({"model__image_projector__also_encodes": ["video"]}, "model.image_projector.also_encodes", "write it into image_encoder"),
        (
            {"model__image_encoder__also_encodes": ["image"]},
            "model.image_encoder.also_encodes",
            "image is encoded by image_encoder already; leave it out here",
        ),
        ({"data__augment": {"image": {"radius": -1}}}, "data.augment.image.radius", "got -1, expected greater than or equal to 0"),
        ({"data__augment": {"imag": {}}}, "data.augment.imag", "model has no imag_encoder; did you mean 'image'?"),
        ({"data__prepare": "pictures"}, "data.prepare", "which is not given"),
        ({"data": {"prepare": "picture", "path": "x"}}, "data.prepare", "did you mean 'pictures'?"),
    ],
)
def test_one_wrong_thing_is_one_readable_message(registry: Registry, changes: dict[str, Any], key: str, message: str) -> None:
    found, said = issue(registry, **changes)
    assert found == key
    assert message in said
    assert "pydantic" not in said


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"keep_checkpoints": 2}, "got 250, but train.save_interval is 0: nothing is saved before the end; set that too"),
        (
            {"keep_checkpoints": 2, "save_interval": 100},
            "got 250, which is no multiple of train.save_interval (100); nearest valid: 200 or 300",
        ),
        ({"keep_checkpoints": 2, "save_interval": 300}, "got 250, which is no multiple of train.save_interval (300); nearest valid: 300"),
        (
            {"save_interval": 50},
            "got 250, but train.keep_checkpoints is 0: all checkpoints are kept; leave this out, or set that too",
        ),
    ],
)
def test_checkpoints_that_are_kept_for_ever_must_be_saved_and_others_deleted(
    registry: Registry, train: dict[str, int], message: str
) -> None:
    assert issue(registry, train={**train, "save_retain_interval": 250}) == ("train.save_retain_interval", message)


def test_every_fifth_checkpoint_may_be_kept_for_ever(registry: Registry) -> None:
    composition_from(changed(train={"save_interval": 50, "keep_checkpoints": 2, "save_retain_interval": 250}), registry)


def test_levels_need_a_projector_and_a_backbone_that_take_them(registry: Registry) -> None:
    hearing = {
        "audio_encoder": {"type": "ear"},
        "audio_projector": {"type": "bridge"},
        "foundation": {"type": "brain", "num_layers": 2, "hidden_size": 16},
    }
    composition = composition_from({"model": hearing}, registry)
    assert isinstance(composition.encoder("audio"), EarConfig)
    assert composition.tokens_per_item("audio") is None
    folded = {**hearing, "audio_projector": {"type": "fold"}, "foundation": {"type": "deaf_brain"}}
    assert set(issues(registry, {"model": folded})) == {"model.audio_projector.type", "model.foundation.type"}
    shallow = {**hearing, "audio_encoder": {"type": "ear", "levels": 3}}
    assert issues(registry, {"model": shallow}) == {
        "model.foundation.num_layers": "audio_encoder (ear) emits 3 levels, one after each of the first 3 layers, but there are 2"
    }


def test_position_ids_that_the_language_model_does_not_take(registry: Registry) -> None:
    story = {"model_type": "story", "axes": 3, "foundation": {"type": "brain", "num_layers": 2, "hidden_size": 16}}
    assert issues(registry, {"model": story}) == {
        "model.model_type": "recipe 'story' makes position ids of 3 axes, but brain in foundation takes 1"
    }


def test_distorting_with_a_processor_that_distorts_nothing_is_refused(registry: Registry) -> None:
    tree = {"model": {"audio_encoder": {"type": "ear"}}, "data": {"augment": {"audio": {}}}}
    assert "distorts nothing" in issues(registry, tree)["data.augment.audio"]


def test_everything_wrong_is_said_at_once(registry: Registry) -> None:
    tree = changed(
        model__image_encoder={"type": "eye", "width": "8", "hight": 3},
        model__image_projector={"type": "bridge", "activation": 3, "input_size": 7},
        model__foundation__num_layers=0,
        model__model_type="stroy",
        train={"lr": "x", "steps": -1},
        tokenizer="nowhere",
        data={"prepare": "picture", "path": "x", "augment": {"imag": {}}},
        parallel={"sequence_parallel": "yes", "imag_encoder": {}},
        trian={},
    )
    assert set(issues(registry, tree)) == {
        "model.image_encoder.width",
        "model.image_encoder.hight",
        "model.image_projector.activation",
        "model.foundation.num_layers",
        "model.model_type",
        "train.lr",
        "train.steps",
        "tokenizer",
        "data.prepare",
        "data.augment.imag",
        "parallel.sequence_parallel",
        "parallel.imag_encoder",
        "trian",
    }


def test_the_place_of_every_error_is_its_last_writer(registry: Registry, tmp_path: Path) -> None:
    config = tmp_path / "my.yaml"
    config.write_text(
        "defaults: [family1.5/complete_v1.5]\nmodel:\n  foundation:\n    num_layer: 3\n  image_projector:\n    hidden_size: 5\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_composition(str(config), ["train.stepz=3", "model.image_encoder.width.deeper=1"], registry=registry)
    places = {found.key: found.where for found in caught.value.issues}
    assert places == {
        "model.foundation.num_layer": f"{config}:4",
        "model.image_encoder.width": "command line",
        "train.stepz": "command line",
    }


def test_widths_name_both_places(registry: Registry, tmp_path: Path) -> None:
    config = tmp_path / "my.yaml"
    config.write_text("defaults: [family1.5/complete_v1.5]\nmodel:\n  image_projector:\n    hidden_size: 5\n")
    with pytest.raises(ConfigError) as caught:
        load_composition(str(config), registry=registry)
    said = str(caught.value)
    assert said.startswith(f"{config}:4: model.image_projector.hidden_size: widths do not fit: 5 is written")
    assert "brain2.5/brain_tiny.yaml:3" in said


def test_a_selected_component_that_is_broken_is_the_cause(registry: Registry) -> None:
    registry.register(ComponentSpec(kind="encoder", name="glass_eye", summary="", modalities=("image",), config="no_such_package.x:Y"))
    with pytest.raises(ConfigError, match="could not be imported: ModuleNotFoundError") as caught:
        composition_from(changed(model__image_encoder__type="glass_eye"), registry)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.skipif(find_spec("transformer_engine") is not None, reason="transformer-engine is installed here")
def test_a_backend_that_is_not_installed_is_no_error_of_the_configuration(registry: Registry) -> None:
    (missing,) = missing_backends(composition_from(changed(model__foundation__backend="transformer_engine"), registry))
    assert missing.key == "model.foundation.backend"
    assert "not installed" in missing.message
    assert missing_backends(composition_from(changed(model__foundation__backend="torch"), registry)) == []


def test_a_backend_that_a_component_has_not_is_refused_there() -> None:
    settings = ["model.image_encoder.backend=torch", "model.image_projector.backend=transformer_engine"]
    with pytest.raises(ConfigError) as caught:
        load_composition("digits", settings, registry=Registry.discover())
    (issue,) = caught.value.issues
    assert issue.key == "model.image_projector.backend"
    assert issue.message == "got transformer_engine, but projector 'mlp' is built of torch only"


def test_samples_longer_than_the_language_model_takes() -> None:
    with pytest.raises(ConfigError, match=r"train\.seq_length: got 257, but the foundation was made for sequences of at most 256 tokens"):
        load_composition("digits", ["train.seq_length=257"], registry=Registry.discover())
