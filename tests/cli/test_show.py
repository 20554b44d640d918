"""`loongforge show`: what it says is what a user can write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import PositiveFloat, PositiveInt

from loongforge_core.cli.description import description
from loongforge_core.cli.fields import type_name
from loongforge_core.cli.main import main
from loongforge_core.cli.show import print_description
from loongforge_core.layers.rotary_config import LinearRotaryScaling
from loongforge_core.registry.registry import Registry

COMPLETE = "family1.5/complete_v1.5"


def test_show_a_component(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "eye", "--json"]) == 0
    (eye,) = json.loads(capsys.readouterr().out)
    assert eye["reference"] == "nature.Eye"
    assert eye["left_out"] == "colours"
    assert [(size["name"], size["tensor_parallel_sizes"], size["parameters"]) for size in eye["sizes"]] == [
        ("image_encoder/eye_large", [1], None),
        ("image_encoder/eye_small", [1], None),
    ]
    assert eye["sizes"][0]["summary"] == "features 16 wide, 4 per item"
    assert eye["fields"] == [
        {
            "name": "width",
            "type": "int",
            "required": False,
            "default": 8,
            "description": "Width of its features, in channels.",
            "forms": [],
        },
        {"name": "image_size", "type": "tuple[int, int]", "required": False, "default": [4, 4], "description": "", "forms": []},
    ]
    assert main(["show", "brain"]) == 0
    said = capsys.readouterr().out
    assert "backbone brain: thinks" in said
    assert "published by toy_plugin 1.0" in said
    lines = [line.split() for line in said.split("\n")]
    assert ["num_layers", "int", "required"] in lines
    assert any(line[0] == "brain2.5/brain_tiny" and line[-3:] == ["1,", "2,", "4"] for line in lines if line)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (PositiveInt | None, "int | null"),
        (Literal["gelu", "silu"], "gelu | silu"),
        (Literal[True], "true"),
        (list[PositiveFloat], "list[float]"),
        (dict[str, bool | list[str]], "dict[str, bool | list[str]]"),
        (None, "null"),
        (LinearRotaryScaling | None, "mapping | null"),
    ],
)
def test_types_read_as_yaml_has_them(annotation: Any, text: str) -> None:
    assert type_name(annotation) == text


def test_show_counts_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    """Published by SigLIP's authors, its head included."""
    assert main(["show", "siglip", "--parameters"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.split("\n")]
    assert any(row[:2] == ["image_encoder/siglip_so400m_384", "428,225,600"] for row in rows)


def test_show_a_recipe_and_a_data_set(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "llava", "--json"]) == 0
    (llava,) = json.loads(capsys.readouterr().out)
    assert {"digits", "llava1.5/llava1_5_7b"} <= {size["name"] for size in llava["sizes"]}
    assert main(["show", "pictures"]) == 0
    assert "dataset pictures: " in capsys.readouterr().out


def test_a_data_set_and_a_composition_of_one_name_are_one_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "digits", "--json"]) == 0
    dataset, composition = json.loads(capsys.readouterr().out)
    assert (dataset["kind"], composition["kind"]) == ("dataset", "composition")
    assert {dataset["name"], dataset["distribution"], composition["name"], composition["distribution"]} == {"digits", "loongforge_models"}


def test_show_a_yaml_name(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", COMPLETE]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["image_encoder"] == {"type": "eye", "width": 8}
    assert main(["show", "eye_large", "--json"]) == 0
    (large,) = json.loads(capsys.readouterr().out)
    assert (large["kind"], large["name"], large["distribution"]) == ("size", "image_encoder/eye_large", "toy_plugin")
    assert large["tree"] == {"type": "eye", "width": 16}
    assert main(["show", "eye_larg"]) == 2
    assert "nothing of the name 'eye_larg' is installed" in capsys.readouterr().err


def shown(capsys: pytest.CaptureFixture[str], name: str) -> str:
    assert main(["show", name]) == 0
    return capsys.readouterr().out


def test_a_mapping_is_shown_as_it_is_written(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its keys below it, and which of its forms has which; never by a class of Python's."""
    lines = [line.split() for line in shown(capsys, "brain").split("\n")]
    rope = lines.index(["rope", "mapping", "|", "null", "null"])
    assert lines[rope + 1] == ["base", "float", "10000.0"]
    said = shown(capsys, "llama")
    assert "RotaryScaling" not in said
    for kind in ("linear", "dynamic", "llama3", "yarn"):
        assert f"\n    type: {kind} " in said
    linear = said.partition("type: linear ")[2].split("\n")
    assert linear[1].split()[:3] == ["factor", "float", "required"]


def test_what_a_family_fixes_is_no_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "qwen3", "--json"]) == 0
    (qwen3,) = json.loads(capsys.readouterr().out)
    assert qwen3["fixed"] == {"sliding_window": None, "add_qkv_bias": False, "qk_layernorm": True}
    assert not set(qwen3["fixed"]) & {field["name"] for field in qwen3["fields"]}
    assert "fixed: sliding_window: null, add_qkv_bias: false, qk_layernorm: true\n" in shown(capsys, "qwen3")


def test_the_kernels_that_a_component_has_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert "weight_decay, backend (torch), also_encodes\n" in shown(capsys, "hf_encoder")
    assert "weight_decay, backend (torch or transformer_engine)\n" in shown(capsys, "qwen3")


def test_a_field_that_a_family_declares_again_keeps_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in shown(capsys, "qwen3").split("\n") if line.split()[:1] == ["max_position_embeddings"]]
    assert line.split()[1:3] == ["int", "40960"]
    assert line.endswith("Longest sequence the model was made for, in tokens.")


def test_widths_that_neighbours_decide_are_not_said_to_be_required(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in shown(capsys, "mlp").split("\n")]
    assert [line[2] for line in lines if line[:1] in (["input_size"], ["hidden_size"], ["num_levels"])] == ["inferred"] * 3


def test_what_data_augment_takes_is_shown_with_the_encoder(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "eye")
    assert "data.augment.image" in said
    assert ["radius", "float", "0.5"] in [line.split() for line in said.split("\n")]
    assert "data.augment" not in shown(capsys, "ear")


def test_layouts_are_said_of_every_component(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "layouts: whole on every tensor rank; it is not made to be split" in shown(capsys, "eye")
    assert "or split: `parallel.audio_encoder: {layout: tensor, tensor_model_parallel_size: N}`" in shown(capsys, "ear")
    moe = shown(capsys, "qwen3_moe")
    assert moe.count("EXPERT-PARALLEL SIZES") == 1
    assert "EXPERT-PARALLEL SIZES" not in shown(capsys, "qwen3")


def test_a_recipe_shows_the_parts_of_its_compositions(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "llava")
    (digits,) = [line for line in said.split("\n") if line.split()[:1] == ["digits"]]
    assert "image_encoder siglip, image_projector mlp, foundation qwen2" in digits
    assert digits.endswith("  1, 2, 4")


def test_what_has_nothing_to_set_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert "FIELD" not in shown(capsys, "default")


def test_a_yaml_file_is_shown_with_what_its_comment_says(capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = shown(capsys, "qwen3_vl_2b").split("\n")
    assert first.startswith("# qwen3_vl/qwen3_vl_2b, published by loongforge_models ")
    assert second == "# Qwen3-VL 2B (Qwen/Qwen3-VL-2B-Instruct): 2,127,532,032 parameters."


def test_everything_of_this_repository_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """And says what it is, of what paper, and how it can be laid out."""
    registry = Registry.discover()
    ours = [each for each in registry.components() if each.spec.config.startswith("loongforge_") and each.spec.paper]
    assert len(ours) > 20
    for published in ours:
        print_description(description(published, registry, count=False))
        said = capsys.readouterr().out
        for part in (published.spec.summary, published.spec.reference, published.spec.paper, published.spec.left_out, "layouts: "):
            assert part in said
        assert "class '" not in said and "typing." not in said


def test_on_a_terminal_the_last_column_is_folded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((100, 24)))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    table = shown(capsys, "siglip").partition("  FIELD")[2].partition("beside these")[0]
    assert max(map(len, table.split("\n"))) <= 100
    assert "carried, untrained, and never run." in " ".join(table.split())
