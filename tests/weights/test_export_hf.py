"""Whole exports: a published class where there is one, else one folder per slot; complete or not at all; read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import loongforge_models
import pytest
import torch
import transformers

from loongforge_core.component import ComponentSpec
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import different_tensors, read_tensors, redraw
from loongforge_core.weights import export_hf as export_module
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.formats import whole_table
from loongforge_core.weights.load import import_model, load_pretrained

TOKENIZER = Path(loongforge_models.__file__).parent / "digits" / "tokenizer"

ENCODER = {
    "type": "siglip",
    "num_layers": 1,
    "hidden_size": 24,
    "ffn_hidden_size": 40,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
FOUNDATION = {"type": "qwen2", "num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "vocab_size": 264}
PROJECTOR = {"type": "mlp"}


@pytest.fixture
def registry() -> Registry:
    """The installed components, and an encoder that its author published no format for."""
    registry = Registry.discover()
    registry.register(replace(registry.component("encoder", "siglip"), name="unpublished", weights=""))
    return registry


def composition(registry: Registry, **slots: dict[str, Any]) -> Composition:
    return composition_from({"model": slots}, registry)


@pytest.fixture
def mixed(registry: Registry) -> Composition:
    """The final norm has no place in LLaVA's format."""
    return composition(registry, image_encoder={**ENCODER, "final_norm": True}, image_projector=PROJECTOR, foundation=FOUNDATION)


@pytest.fixture
def unpublished(registry: Registry) -> Composition:
    return composition(registry, image_encoder={**ENCODER, "type": "unpublished"}, image_projector=PROJECTOR, foundation=FOUNDATION)


@pytest.fixture
def language_model(registry: Registry) -> Composition:
    return composition(registry, foundation=FOUNDATION)


@pytest.fixture(autouse=True)
def process() -> Any:
    with single_process():
        yield


def built(chosen: Composition, registry: Registry) -> OmniCombinationModel:
    model = OmniModelProvider(composition=chosen, registry=registry)()
    redraw(model)
    return model


def values(model: OmniCombinationModel) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


# ------------------------------------------------------------------------------------------------------- a component alone


def test_a_language_model(language_model: Composition, registry: Registry, tmp_path: Path) -> None:
    model = built(language_model, registry)
    export_hf(model.components(), language_model, registry, tmp_path / "hf", tokenizer=TOKENIZER, stop_token_ids=[7])
    loaded, remarks = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert type(loaded).__name__ == "Qwen2ForCausalLM"
    assert not any(remarks.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.chat_template == transformers.AutoTokenizer.from_pretrained(TOKENIZER).chat_template
    assert loaded.generation_config.eos_token_id == [7, tokenizer.eos_token_id]
    assert loaded.generation_config.pad_token_id == tokenizer.pad_token_id
    before = values(model)
    redraw(model, seed=1)
    import_model(tmp_path / "hf", model.components(), language_model, registry)
    assert not different_tensors(before, values(model))


def test_an_encoder(registry: Registry, tmp_path: Path) -> None:
    chosen = composition(registry, image_encoder=ENCODER)
    model = built(chosen, registry)
    export_hf(model.components(), chosen, registry, tmp_path / "hf")
    _, remarks = transformers.SiglipVisionModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(remarks.values())


# --------------------------------------------------------------------------------------------------------- a folder per slot


@pytest.mark.parametrize("name", ["mixed", "unpublished"])
def test_slots_come_back(name: str, registry: Registry, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    chosen = request.getfixturevalue(name)
    assert whole_table(chosen, registry) is None
    model = built(chosen, registry)
    export_hf(model.components(), chosen, registry, tmp_path / "hf")
    before = values(model)
    redraw(model, seed=1)
    import_model(tmp_path / "hf", model.components(), chosen, registry)
    assert not different_tensors(before, values(model))


def test_each_slot_has_its_own_published_format(mixed: Composition, registry: Registry, tmp_path: Path) -> None:
    export_hf(built(mixed, registry).components(), mixed, registry, tmp_path / "hf", tokenizer=TOKENIZER)
    _, remarks = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf" / "foundation", output_loading_info=True)
    assert not any(remarks.values())
    _, remarks = transformers.SiglipVisionModel.from_pretrained(tmp_path / "hf" / "image_encoder", output_loading_info=True)
    assert not any(remarks.values())
    assert set(read_tensors(tmp_path / "hf" / "image_projector")) == {f"linear_{n}.{part}" for n in (1, 2) for part in ("weight", "bias")}
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf").chat_template


def test_a_broken_recipe_that_nobody_selected(mixed: Composition, registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    registry.register(ComponentSpec(kind="recipe", name="a_broken", summary="", config="no.such:Config", weights="no.such:table"))
    assert whole_table(mixed, registry) is None
    assert "config of recipe 'a_broken'" in caplog.text


def test_manifest(mixed: Composition, registry: Registry, tmp_path: Path) -> None:
    export_hf(built(mixed, registry).components(), mixed, registry, tmp_path / "hf")
    tree = json.loads((tmp_path / "hf" / "manifest.json").read_text())
    assert (tree["layout"], tree["recipe"]["name"]) == ("slots", "default")
    slot = tree["slots"]["image_encoder"]
    assert (slot["component"], slot["distribution"], slot["version"]) == ("siglip", "loongforge_vit", "0.1.0")
    assert slot["config"]["final_norm"] is True


def test_names_of_a_component_without_a_table_are_ours(unpublished: Composition, registry: Registry, tmp_path: Path) -> None:
    model = built(unpublished, registry)
    export_hf(model.components(), unpublished, registry, tmp_path / "hf")
    stored = read_tensors(tmp_path / "hf" / "image_encoder")
    assert stored.keys() == {name for name, _ in model.components()["image_encoder"].named_parameters()}
    assert json.loads((tmp_path / "hf" / "image_encoder" / "config.json").read_text())["component"] == "unpublished"


def test_another_config_than_the_stored_one(unpublished: Composition, registry: Registry, tmp_path: Path) -> None:
    model = built(unpublished, registry)
    export_hf(model.components(), unpublished, registry, tmp_path / "hf")
    encoder = {**ENCODER, "type": "unpublished", "layernorm_epsilon": 1e-5}
    other = composition(registry, image_encoder=encoder, image_projector=PROJECTOR, foundation=FOUNDATION)
    with pytest.raises(WeightsError, match=r"config\.layernorm_epsilon is 1e-06 in the file; only 1e-05 is supported"):
        import_model(tmp_path / "hf", built(other, registry).components(), other, registry)


def test_slots_of_another_model(mixed: Composition, unpublished: Composition, registry: Registry, tmp_path: Path) -> None:
    export_hf(built(unpublished, registry).components(), unpublished, registry, tmp_path / "hf")
    with pytest.raises(WeightsError, match=r"image_encoder holds 'unpublished', but model\.image_encoder is 'siglip'"):
        import_model(tmp_path / "hf", built(mixed, registry).components(), mixed, registry)


def test_a_published_folder_for_a_mix_without_a_format(
    mixed: Composition, language_model: Composition, registry: Registry, tmp_path: Path
) -> None:
    export_hf(built(language_model, registry).components(), language_model, registry, tmp_path / "hf")
    with pytest.raises(WeightsError, match=r"has no published format.*model\.<slot>\.pretrained"):
        import_model(tmp_path / "hf", built(mixed, registry).components(), mixed, registry)


def test_a_slot_starts_from_its_own_folder(language_model: Composition, registry: Registry, tmp_path: Path) -> None:
    source = built(language_model, registry)
    export_hf(source.components(), language_model, registry, tmp_path / "hf")
    started = composition(
        registry, image_encoder=ENCODER, image_projector=PROJECTOR, foundation={**FOUNDATION, "pretrained": str(tmp_path / "hf")}
    )
    model = built(started, registry)
    redraw(model, seed=1)
    before = values(model)
    assert load_pretrained(model.components(), started, registry) == {name for name in before if name.startswith("foundation.")}
    changed = different_tensors(before, values(model))
    assert changed == sorted(name for name in before if name.startswith("foundation."))
    assert not different_tensors(values(source), {name: tensor for name, tensor in values(model).items() if name.startswith("foundation.")})


# --------------------------------------------------------------------------------------------------- complete or not at all


def test_an_earlier_export_is_replaced(language_model: Composition, mixed: Composition, registry: Registry, tmp_path: Path) -> None:
    export_hf(built(mixed, registry).components(), mixed, registry, tmp_path / "hf")
    export_hf(built(language_model, registry).components(), language_model, registry, tmp_path / "hf")
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == ["config.json", "manifest.json", "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_files_of_others_are_not_touched(language_model: Composition, registry: Registry, tmp_path: Path) -> None:
    components = built(language_model, registry).components()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WeightsError, match=r"has files that no earlier export wrote: notes\.txt"):
        export_hf(components, language_model, registry, tmp_path)
    export_hf(components, language_model, registry, tmp_path / "hf")
    (tmp_path / "hf" / "README.md").write_text("mine too")
    with pytest.raises(WeightsError, match=r"no earlier export wrote: README\.md"):
        export_hf(components, language_model, registry, tmp_path / "hf")
    with pytest.raises(WeightsError, match="is a file"):
        export_hf(components, language_model, registry, tmp_path / "notes.txt")


def test_a_failed_export_leaves_the_earlier_one(
    language_model: Composition, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(language_model, registry)
    export_hf(model.components(), language_model, registry, tmp_path / "hf")
    before = read_tensors(tmp_path / "hf")
    redraw(model, seed=1)

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(export_module, "write_json", full_disk)
    with pytest.raises(OSError, match="no space left"):
        export_hf(model.components(), language_model, registry, tmp_path / "hf")
    assert not different_tensors(before, read_tensors(tmp_path / "hf"))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_tokenizer_that_is_none(language_model: Composition, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot load a Hugging Face tokenizer"):
        export_hf(built(language_model, registry).components(), language_model, registry, tmp_path / "hf", tokenizer=tmp_path / "nothing")
    assert not (tmp_path / "hf").exists()
