"""`loongforge list`, `show`, `validate` and `copy-configs`, in process and as a program, with the toy plugin really installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import PositiveFloat, PositiveInt

from loongforge_core.cli.main import main
from loongforge_core.cli.show import type_name

TOYS = Path(__file__).parents[1] / "toys"
COMPLETE = "family1.5/complete_v1.5"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy plugin and a broken one, as pip leaves them; the working directory is empty."""
    site = tmp_path / "site"
    for name, module in (("toy_plugin", "toy_plugin.plugin"), ("broken_plugin", "no_such_module")):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[loongforge]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(site)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return site


def program(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(TOYS), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-m", "loongforge_core", *arguments], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )


def rows(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], dict[str, object]]:
    assert main(["list", "--json"]) == 0
    return {(row["kind"], row["name"]): row for row in json.loads(capsys.readouterr().out)}


def test_list_shows_everything_that_can_be_selected(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = rows(capsys)
    toys = {key for key, row in listed.items() if row["distribution"] == "toy_plugin"}
    assert toys == {
        ("backbone", "brain"),
        ("backbone", "deaf_brain"),
        ("composition", COMPLETE),
        ("dataset", "pictures"),
        ("encoder", "ear"),
        ("encoder", "eye"),
        ("projector", "bridge"),
        ("projector", "fold"),
        ("recipe", "story"),
    }
    assert listed["encoder", "eye"]["version"] == "1.0"
    assert listed["encoder", "eye"]["modalities"] == ["image", "video"]
    assert listed["composition", COMPLETE]["summary"] == "Everything there is"
    assert listed["recipe", "default"]["distribution"] == "loongforge_core"
    assert "ModuleNotFoundError: No module named 'no_such_module'" in str(listed["broken", "broken_plugin"]["reason"])


def test_list_as_a_table(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.split("\n")
    (eye,) = [line for line in lines if line.split()[:2] == ["encoder", "eye"]]
    assert eye.index("toy_plugin 1.0") == lines[0].index("DISTRIBUTION")
    assert any(line.startswith("broken: broken_plugin 1.0") for line in lines)
    assert main(["list", "--kind", "recipe"]) == 0
    kinds = {line.split()[0] for line in capsys.readouterr().out.strip().split("\n")[1:]}
    assert kinds == {"recipe"}


def test_list_marks_what_is_published_twice(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = installed / "twin_plugin-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: twin_plugin\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[loongforge]\ntwin = toy_plugin.plugin\n")
    assert rows(capsys)["encoder", "eye"]["duplicate"] is True
    assert main(["list"]) == 0
    assert capsys.readouterr().out.count("PUBLISHED TWICE") >= 2
    assert main(["validate", COMPLETE]) == 2
    assert "toy_plugin 1.0" in (said := capsys.readouterr().err)
    assert "twin_plugin 2.0" in said


def test_show_a_component(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "eye", "--json"]) == 0
    (eye,) = json.loads(capsys.readouterr().out)
    assert eye["reference"] == "nature.Eye"
    assert eye["left_out"] == "colours"
    assert eye["sizes"] == [
        {"name": f"image_encoder/eye_{size}", "tensor_parallel_sizes": [1], "parameters": None} for size in ("large", "small")
    ]
    assert eye["fields"] == [
        {
            "name": "width",
            "type": "int",
            "required": False,
            "default": 8,
            "description": "Width of its features, in channels.",
        },
        {"name": "image_size", "type": "tuple[int, int]", "required": False, "default": [4, 4], "description": ""},
    ]
    assert main(["show", "brain"]) == 0
    said = capsys.readouterr().out
    assert "backbone brain: thinks" in said
    assert "published by toy_plugin 1.0" in said
    lines = [line.split() for line in said.split("\n")]
    assert ["num_layers", "int", "required"] in lines and ["rope", "Rope", "|", "null", "null"] in lines
    assert ["brain2.5/brain_tiny", "1,", "2,", "4"] in lines


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (PositiveInt | None, "int | null"),
        (Literal["gelu", "silu"], "gelu | silu"),
        (Literal[True], "true"),
        (list[PositiveFloat], "list[float]"),
        (dict[str, bool | list[str]], "dict[str, bool | list[str]]"),
    ],
)
def test_types_read_as_yaml_has_them(annotation: Any, text: str) -> None:
    assert type_name(annotation) == text


def test_show_counts_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    """Published by SigLIP's authors, its head included."""
    assert main(["show", "siglip", "--parameters"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.split("\n")]
    assert ["image_encoder/siglip_so400m_384", "428,225,600", "1,", "2,", "4,", "8,", "16"] in rows


def test_show_a_recipe_and_a_data_set(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "llava", "--json"]) == 0
    (llava,) = json.loads(capsys.readouterr().out)
    assert {"digits", "llava1.5/llava1_5_7b"} <= {size["name"] for size in llava["sizes"]}
    assert main(["show", "pictures"]) == 0
    assert "dataset pictures: " in capsys.readouterr().out


def test_show_a_yaml_name(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", COMPLETE]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["image_encoder"] == {"type": "eye", "width": 8}
    assert main(["show", "eye_large", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"image_encoder/eye_large": {"type": "eye", "width": 16}}
    assert main(["show", "eye_larg"]) == 2
    assert "nothing of the name 'eye_larg' is installed" in capsys.readouterr().err


def test_validate_says_what_the_model_is(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", COMPLETE, "train.steps=7"]) == 0
    said = capsys.readouterr().out
    for expected in ("features 8 wide, 4 tokens per image", "8 -> 16", "2 layers, 16 wide, vocabulary 32", "7 steps", "OK\n"):
        assert expected in said


def test_validate_checks_the_layout_where_the_world_size_is_given(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = ["parallel.tensor_model_parallel_size=2"]
    assert main(["validate", COMPLETE, *layout]) == 0
    assert main(["validate", COMPLETE, "--world-size", "2", *layout]) == 0
    assert main(["validate", COMPLETE, *layout, "--world-size", "3"]) == 2
    assert "the world size 3 is no multiple of 2" in capsys.readouterr().err


def test_copied_configs_take_precedence_and_are_never_overwritten(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["copy-configs", "configs/models"]) == 0
    copied = Path("configs/models/image_encoder/eye_small.yaml")
    assert f"{copied}  (toy_plugin 1.0)" in capsys.readouterr().out
    assert Path(f"configs/models/{COMPLETE}.yaml").is_file()
    copied.write_text("type: eye\nwidth: 12\n")
    assert main(["validate", COMPLETE]) == 0
    assert "features 12 wide" in capsys.readouterr().out
    Path(f"configs/models/{COMPLETE}.yaml").unlink()
    assert main(["copy-configs", "configs/models"]) == 2
    assert str(copied) in capsys.readouterr().err
    assert copied.read_text() == "type: eye\nwidth: 12\n"
    assert not Path(f"configs/models/{COMPLETE}.yaml").exists(), "nothing is written where something is refused"


def test_a_broken_plugin_that_is_not_selected_costs_a_warning(installed: Path) -> None:
    done = program(installed, "validate", COMPLETE)
    assert done.returncode == 0
    assert "WARNING: broken_plugin 1.0 is broken: ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("arguments", [["list"], ["validate", COMPLETE]])
def test_no_command_here_imports_torch(installed: Path, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom loongforge_core.cli.main import main\n"
        f"assert main({arguments!r}) == 0\n"
        "heavy = {'torch', 'megatron.core', 'transformers'}\n"
        "heavy |= {'numpy', 'hydra'} if 'list' in sys.argv else set()\n"
        "print('imported:', sorted(heavy & set(sys.modules)))"
    )
    path = os.pathsep.join([str(installed), str(TOYS), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    assert done.stdout.endswith("imported: []\n")


# --------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("model: {foundation: {type: brain, num_layer: 2}}", [], "my.yaml:1: model.foundation.num_layer: unknown key"),
        ("model: {image_encoder: {type: eye, width: wide}}", [], "my.yaml:1: model.image_encoder.width: got 'wide' (text)"),
        ("model: {image_encoder: {type: eey}}", [], "did you mean 'eye'?"),
        ("model: {image_encoder: {type: brain}}", [], "'brain' is a backbone, not an encoder"),
        ("model: {image_encoder: {type: eye}, foundation: {type: deaf_brain}}", [], "widths do not fit"),
        ("model: {image_encoder: {type: eye}}\ntokenizer: nowhere", [], "my.yaml:2: tokenizer: missing folder 'nowhere'"),
        ("model: {image_encoder: {type: eye}", [], "my.yaml:1: not YAML"),
        ("model: {image_encoder: {type: eye}}\nmodel: {}", [], "my.yaml:2: model: this key is there twice"),
        ("model: {image_encoder: {type: eye}}", ["train.stepz=3"], "command line: train.stepz: unknown key; did you mean 'steps'?"),
    ],
)
def test_bad_input_is_status_2_and_one_readable_message(installed: Path, text: str, overrides: list[str], message: str) -> None:
    Path("my.yaml").write_text(text)
    done = program(installed, "validate", "my.yaml", *overrides)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_all_errors_are_said_at_once_and_debug_shows_the_traceback(installed: Path) -> None:
    Path("my.yaml").write_text("model: {image_encoder: {type: eye, wide: 3}}\ntrain: {lr: x}\n")
    arguments = ["validate", "my.yaml", "train.stepz=3"]
    plain = program(installed, *arguments)
    assert plain.stderr.startswith("3 errors:\n")
    assert len(plain.stderr.strip().split("\n")) == 4
    debug = program(installed, *arguments, "--debug")
    assert debug.returncode == 2
    assert "Traceback" in debug.stderr
