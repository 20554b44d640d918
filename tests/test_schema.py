"""The JSON schema accepts what `validate` accepts, and shows an editor where a broken file is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from toy_plugin.registered import toy_registry

from loongforge_core.cli.main import main
from loongforge_core.config.check import load_composition
from loongforge_core.config.document import read_document
from loongforge_core.config.library import published_files
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Registry
from loongforge_core.schema.composition import composition_schema

DIGITS = "digits"


@pytest.fixture(scope="module")
def installed() -> Registry:
    return Registry.discover()


@pytest.fixture(scope="module")
def schema(installed: Registry) -> dict[str, Any]:
    made = composition_schema(installed)
    Draft7Validator.check_schema(made)
    return made


@pytest.fixture(scope="module")
def digits(installed: Registry) -> str:
    (path,) = [file.path for file in published_files(installed.config_folders) if file.name == DIGITS]
    return path.read_text(encoding="utf-8")


def complaints(schema: dict[str, Any], tree: Any) -> list[tuple[str, str]]:
    """Where the schema says that something is wrong, and what."""
    return [(".".join(map(str, error.absolute_path)), error.message) for error in Draft7Validator(schema).iter_errors(tree)]


def test_every_published_file_is_valid(installed: Registry, schema: dict[str, Any]) -> None:
    files = list(published_files(installed.config_folders))
    assert len(files) > 100
    assert {file.name: found for file in files if (found := complaints(schema, dict(read_document(file.path).tree)))} == {}


BROKEN: dict[str, tuple[str, str, str, str]] = {
    "a key of a component misspelt": ("num_layers: 2", "num_layer: 2", "model.image_encoder", "num_layer"),
    "text for a number": ("num_layers: 2", "num_layers: two", "model.image_encoder.num_layers", "two"),
    "half a layer": ("num_layers: 2", "num_layers: 1.5", "model.image_encoder.num_layers", "1.5"),
    "fewer than no layers": ("num_layers: 2", "num_layers: -1", "model.image_encoder.num_layers", "-1"),
    "a number for a switch": (
        "attention_pooling_head: false",
        "attention_pooling_head: 0",
        "model.image_encoder.attention_pooling_head",
        "0",
    ),
    "no such encoder": ("type: siglip", "type: siglop", "model.image_encoder.type", "siglop"),
    "an encoder of another modality": ("type: siglip", "type: whisper", "model.image_encoder.type", "whisper"),
    "a projector in the place of an encoder": ("type: siglip", "type: mlp", "model.image_encoder.type", "mlp"),
    "no such recipe": ("model_type: llava", "model_type: lava", "model.model_type", "lava"),
    "no type": ("    type: mlp\n", "", "model.image_projector", "type"),
    "a required key missing": ("    vocab_size: 264", "    # vocab_size: 264", "model.foundation", "vocab_size"),
    "a slot misspelt": ("  foundation:", "  fondation:", "model", "fondation"),
    "a name for a mapping": (
        "    type: mlp\n    init_method_std: 0.1\n  foundation",
        "    mlp\n  foundation",
        "model.image_projector",
        "mlp",
    ),
    "a key of the run misspelt": ("  steps: 800", "  step: 800", "train", "step"),
    "a section misspelt": ("train:", "training:", "", "training"),
    "a value that is none of several": ("  export_hf: true", "  precision: fp8", "train.precision", "fp8"),
    "a batch of none": ("  micro_batch_size: 128", "  micro_batch_size: 0", "train.micro_batch_size", "0"),
    "half a reference": ("  path: ${output_dir}", "  packing: x${output_dir}", "data.packing", "x${output_dir}"),
    "a distortion that there is not": ("translate:", "rotate:", "data.augment.image", "rotate"),
    "a modality that nobody has": ("    image: {translate", "    imag: {translate", "data.augment", "imag"),
    "no such data set": ("prepare: digits", "prepare: digit", "data.prepare", "digit"),
    "a layout that there is not": (
        "output_dir: runs",
        "parallel: {image_encoder: {layout: split}}\noutput_dir: runs",
        "parallel.image_encoder.layout",
        "split",
    ),
    "a list for a path": ("output_dir: runs/digits", "output_dir: [runs]", "output_dir", "runs"),
    "defaults that are no list": ("tokenizer:", "defaults: digits\ntokenizer:", "defaults", "digits"),
    "two defaults in one": ("tokenizer:", "defaults: [{llama3: llama3_8b, qwen2: qwen2_7b}]\ntokenizer:", "defaults.0", "llama3"),
    "kernels that a projector has not": (
        "    type: mlp\n",
        "    type: mlp\n    backend: transformer_engine\n",
        "model.image_projector.backend",
        "transformer_engine",
    ),
    "modalities encoded by a projector": (
        "    type: mlp\n",
        "    type: mlp\n    also_encodes: [video]\n",
        "model.image_projector.also_encodes",
        "video",
    ),
}


@pytest.mark.parametrize(("old", "new", "place", "named"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_wrong_where_it_is_broken(
    old: str, new: str, place: str, named: str, digits: str, schema: dict[str, Any], installed: Registry, tmp_path: Path
) -> None:
    """By the schema and by `validate`."""
    assert old in digits
    file = tmp_path / "broken.yaml"
    file.write_text(digits.replace(old, new, 1))
    found = complaints(schema, dict(read_document(file).tree))
    assert found and all(where == place and named in message for where, message in found)
    with pytest.raises(ConfigError):
        load_composition(str(file), registry=installed)


RIGHT = {
    "references": "defaults: [digits]\ntrain: {steps: '${evaluation.batch_size}'}\nmodel: {image_encoder: '${model.foundation}'}",
    "what the command line must give": "defaults: [digits]\ntokenizer: ???\ntrain: {steps: '???'}",
    "a part of a scaling": "defaults: [internvl2.5/internvl2_5_8b]\nmodel: {foundation: {rotary_scaling: {factor: 3.0}}}",
    "another type than the defaults' own": "defaults: [digits]\nmodel: {image_projector: {type: linear}}",
    "a folder of the user's own": "defaults:\n- override /mine/eyes@model.image_encoder: big\n- optional local: null\n- _self_\n",
    "pairs and named callables": """
defaults:
  - ../../models/image_encoder@model.image_encoder: intern_vit_0.3b
  - ../../models/internlm2.5@model.foundation: internlm2_5_8b
model:
  model_type: intern_vl
  loss_func: ${loss_func:loss_func_internvl}
  foundation:
    rotary_emb_func: DynamicRotaryEmbedding
    model_spec: ["loongforge.models.foundation.internlm.internlm_layer_spec", "get_internlm_layer_with_te_spec"]
""",
    "old names that end as slots do": "model: {model_type: qwen3_vl, mix_used_vision_encoder: true}\ndefaults: []",
    "an old name that means a required key": "model: {foundation: {type: internlm2, num_layers: 1, hidden_size: 8, ffn_hidden_size: 8, "
    "num_attention_heads: 1, vocab_size: 9, rotary_emb_func: DynamicRotaryEmbedding}}",
    "one layer's size": "defaults: [siglip_base_224]\ntype: siglip\nnum_layers: 1",
}


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_what_another_file_may_complete_is_valid(text: str, schema: dict[str, Any]) -> None:
    assert complaints(schema, yaml.safe_load(text)) == []


def test_it_covers_what_is_installed_and_not_what_core_knows() -> None:
    """The toys' slots, modalities and old names; and none of the plugins that are not in this registry."""
    toys = toy_registry()
    schema = composition_schema(toys)
    for file in published_files(toys.config_folders):
        assert complaints(schema, dict(read_document(file.path).tree)) == [], file.name
    full = "model: {model_type: story, loss_func: loss_func_story, foundation: {type: brain, rotary_emb_func: WideRope}}\ndefaults: []"
    assert complaints(schema, yaml.safe_load(full)) == []
    assert [where for where, _ in complaints(schema, {"defaults": [], "model": {"foundation": {"type": "qwen2"}}})] == [
        "model.foundation.type"
    ]


def test_an_editor_can_explain_and_propose(schema: dict[str, Any]) -> None:
    """Every key of a part that `show` explains is explained, with its default; names are proposed where one is chosen."""
    siglip, qwen2 = (schema["definitions"][name]["properties"] for name in ("encoder.siglip", "backbone.qwen2"))
    assert siglip["lr"]["description"] == "Peak learning rate of this slot; default `train.lr`."
    assert qwen2["max_position_embeddings"]["description"] == "Longest sequence the model was made for, in tokens. Default: 32768."
    encoders = schema["definitions"]["image_encoder"]["properties"]["type"]["anyOf"][0]["enum"]
    assert "siglip" in encoders and "qwen3_vl" in encoders and not {"whisper", "mlp", "qwen2"} & set(encoders)
    default = schema["definitions"]["defaults"]["items"]["anyOf"][2]["properties"]
    for key in ("qwen2.5@model.foundation", "../../models/qwen2.5@model.foundation"):
        assert "qwen2_5_7b" in default[key]["anyOf"][0]["enum"]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        for each in node.values():
            yield from references(each)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    found = set(references(schema))
    assert found
    for reference in found:
        here: Any = schema
        for part in reference.removeprefix("#/").split("/"):
            here = here[part]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["schema", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_the_command_prints_or_writes_and_says_how_it_is_used(said: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    status, printed, _ = said()
    assert status == 0 and Draft7Validator(yaml.safe_load(printed)).is_valid({"defaults": ["digits"]})
    file = tmp_path / "loongforge.json"
    for _ in ("new", "again"):
        status, output, hint = said("--output", str(file))
        assert (status, output) == (0, "") and f"# yaml-language-server: $schema={file}" in hint and '"yaml.schemas"' in hint
        assert file.read_text() == printed


def test_no_file_of_another_kind_is_overwritten(said: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    file = tmp_path / "my_vlm.yaml"
    file.write_text("model: {}\n")
    status, _, error = said("--output", str(file))
    assert status == 2 and f"{file} is there already, and is no JSON schema" in error and file.read_text() == "model: {}\n"
    status, _, error = said("--output", str(tmp_path / "none" / "schema.json"))
    assert status == 2 and "cannot be written" in error
