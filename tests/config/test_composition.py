"""What a tree of plain data becomes: a composition, whose resolved tree is the same composition again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_plugin.config import BrainConfig, BridgeConfig
from trees import TREE, changed

from loongforge_core.config.check import composition_from, load_composition
from loongforge_core.registry.registry import Registry


def test_widths_are_inferred_from_the_neighbours(registry: Registry) -> None:
    composition = composition_from(TREE, registry)
    assert list(composition.slots) == ["image_encoder", "image_projector", "foundation"]
    assert composition.projector("image") == BridgeConfig(input_size=8, hidden_size=16)
    assert composition.foundation == BrainConfig(num_layers=2, hidden_size=16)
    assert composition.tokens_per_item("image") == 4
    assert composition.recipe.name == "default"
    assert composition.run.parallel.encoders["image_encoder"].layout == "replicate"


@pytest.mark.parametrize(
    "model",
    [
        {"foundation": {"type": "brain", "num_layers": 2, "hidden_size": 16}},
        {"image_encoder": {"type": "eye"}},
        {"image_encoder": {"type": "eye"}, "image_projector": {"type": "bridge", "hidden_size": 5}},
        {"image_encoder": {"type": "eye", "width": 16}, "foundation": {"type": "brain", "num_layers": 2, "hidden_size": 16}},
    ],
    ids=["language model", "features", "projected features", "encoder as wide as the language model"],
)
def test_parts_of_a_model_are_compositions(registry: Registry, model: dict[str, Any]) -> None:
    assert set(composition_from({"model": model}, registry).slots) == set(model)


def test_slots_of_several_modalities_may_be_of_one_type(registry: Registry) -> None:
    tree = changed(model__video_encoder={"type": "eye", "width": 4}, model__video_projector={"type": "bridge"})
    assert composition_from(tree, registry).modalities == ("image", "video")


def test_one_slot_may_encode_several_modalities(registry: Registry) -> None:
    composition = composition_from(changed(model__image_encoder__also_encodes=["video"], data__augment={"video": {"radius": 2}}), registry)
    assert composition.modalities == ("image", "video") and composition.encoder_of("video").name == "image_encoder"
    assert composition.item_grid("video", (6, 4)) == composition.item_grid("image", (6, 4)) == (3, 2)


def test_a_slots_own_keys_are_no_part_of_its_config(registry: Registry, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    own = {"pretrained": str(tmp_path), "freeze": ["a*"], "lr": 1e-3, "weight_decay": 0.0, "backend": "torch", "also_encodes": ["video"]}
    slot = composition_from(changed(model__image_encoder={"type": "eye", **own}), registry).slots["image_encoder"]
    assert slot.settings.model_dump() == {"type": "eye", **own}


def test_a_recipe_takes_the_other_keys_of_model(registry: Registry) -> None:
    composition = composition_from(changed(model__model_type="story", model__ending="sad"), registry)
    assert composition.recipe_config.model_dump() == {"ending": "sad", "axes": 1}


def test_the_resolved_tree_loads_again_to_an_equal_composition(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "tokenizer.json").touch()
    tree = changed(
        model__model_type="story",
        model__image_encoder={"type": "eye", "image_size": [8, 4], "freeze": True},
        model__foundation__rope={"base": 5.0},
        parallel__image_encoder={"layout": "replicate"},
        data={"path": [str(tmp_path / "train.jsonl")], "augment": {"image": {"radius": 1}}},
        train={"lr": 1},
        tokenizer=str(tmp_path),
    )
    composition = composition_from(tree, registry, name="again")
    again = composition_from(composition.resolved, registry, name="again")
    assert again == composition
    assert composition.resolved["model"]["image_projector"]["input_size"] == 8
    assert composition.run.data.augment == {"image": {"radius": 1.0, "share": 1.0}}
    written = tmp_path / "again.yaml"
    written.write_text(yaml.safe_dump(dict(composition.resolved)))
    assert load_composition(str(written), registry=registry) == composition


def test_the_composition_of_a_name_and_of_a_file_are_named(registry: Registry, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("defaults: [family1.5/complete_v1.5]\n")
    named = load_composition("family1.5/complete_v1.5", registry=registry)
    own = load_composition(str(config), registry=registry)
    assert (named.name, own.name) == ("family1.5/complete_v1.5", "mine")
    assert named.resolved == own.resolved
