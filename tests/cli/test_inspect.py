"""`loongforge list`, `validate` and `copy-configs`, in process and as a program, with the toy plugin really installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from installed import write_dist_info

from loongforge_core.cli.main import main

COMPLETE = "family1.5/complete_v1.5"

pytestmark = pytest.mark.usefixtures("installed")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which finds what this one does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "loongforge_core", *arguments)


def rows(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], dict[str, object]]:
    assert main(["list", "--json"]) == 0
    return {(row["kind"], row["name"]): row for row in json.loads(capsys.readouterr().out)}


def test_list_shows_everything_that_can_be_selected(capsys: pytest.CaptureFixture[str]) -> None:
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
    tones = str(listed["composition", "tones"]["summary"])
    assert tones.startswith("A model that hears: ") and tones.endswith("on the spot"), (
        "the whole first paragraph, of two lines, and no more"
    )
    assert listed["recipe", "default"]["distribution"] == "loongforge_core"
    assert "ModuleNotFoundError: No module named 'no_such_module'" in str(listed["broken", "broken_plugin"]["reason"])


def test_list_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.split("\n")
    (eye,) = [line for line in lines if line.split()[:2] == ["encoder", "eye"]]
    assert eye.index("toy_plugin 1.0") == lines[0].index("DISTRIBUTION")
    assert any(line.startswith("broken: broken_plugin 1.0") for line in lines)
    assert main(["list", "--kind", "recipe"]) == 0
    kinds = {line.split()[0] for line in capsys.readouterr().out.strip().split("\n")[1:]}
    assert kinds == {"recipe"}


def test_list_marks_what_is_published_twice(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dist_info(installed, "twin_plugin", module="toy_plugin.plugin", version="2.0")
    assert rows(capsys)["encoder", "eye"]["duplicate"] is True
    assert main(["list"]) == 0
    assert capsys.readouterr().out.count("PUBLISHED TWICE") >= 2
    assert main(["validate", COMPLETE]) == 2
    assert "toy_plugin 1.0" in (said := capsys.readouterr().err)
    assert "twin_plugin 2.0" in said


def test_validate_says_what_the_model_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", COMPLETE, "train.steps=7"]) == 0
    said = capsys.readouterr().out
    for expected in ("features 8 wide, 4 tokens per image", "8 -> 16", "2 layers, 16 wide, vocabulary 32", "7 steps", "OK\n"):
        assert expected in said


def test_validate_says_how_many_tokens_the_largest_item_gives(capsys: pytest.CaptureFixture[str]) -> None:
    """Of every modality that an encoder takes; and where that is more than a sample may have."""
    hearing = ["+model.audio_encoder={type: ear}", "+model.audio_projector={type: bridge}", "model.image_encoder.also_encodes=[video]"]
    assert main(["validate", COMPLETE, *hearing, "train.seq_length=899"]) == 0
    said = capsys.readouterr().out
    assert "features 8 wide, 4 tokens per image, 4 tokens per video\n" in said
    assert "features 6 wide, at most 900 tokens per audio\n" in said
    assert "note: train.seq_length: the largest audio gives 900 tokens, and a sample has at most 899\n" in said
    assert main(["validate", COMPLETE, *hearing, "train.seq_length=900"]) == 0
    assert "note: train.seq_length" not in capsys.readouterr().out


def test_validate_says_what_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", COMPLETE, "data.packing=true"]) == 0
    assert "note: data.packing: true packs the samples of a micro-batch, and train.micro_batch_size is 1" in capsys.readouterr().out
    assert main(["validate", COMPLETE, "data.packing=true", "train.micro_batch_size=2"]) == 0
    assert "note: data.packing" not in capsys.readouterr().out


def test_validate_checks_the_layout_where_the_world_size_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    layout = ["parallel.tensor_model_parallel_size=2"]
    assert main(["validate", COMPLETE, *layout]) == 0
    assert main(["validate", COMPLETE, "--world-size", "2", *layout]) == 0
    assert main(["validate", COMPLETE, *layout, "--world-size", "3"]) == 2
    assert "the world size 3 is no multiple of 2" in capsys.readouterr().err


def test_copied_configs_take_precedence_and_are_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_broken_plugin_that_is_not_selected_costs_a_warning() -> None:
    done = program("validate", COMPLETE)
    assert done.returncode == 0
    assert "WARNING: broken_plugin 1.0 is broken: ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("arguments", [["list"], ["validate", COMPLETE]])
def test_no_command_here_imports_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom loongforge_core.cli.main import main\n"
        f"assert main({arguments!r}) == 0\n"
        "heavy = {'torch', 'megatron.core', 'transformers'}\n"
        "heavy |= {'numpy', 'hydra'} if 'list' in sys.argv else set()\n"
        "print('imported:', sorted(heavy & set(sys.modules)))"
    )
    done = python("-c", code, *arguments)
    assert done.stdout.endswith("imported: []\n"), done.stderr


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
def test_bad_input_is_status_2_and_one_readable_message(text: str, overrides: list[str], message: str) -> None:
    Path("my.yaml").write_text(text)
    done = program("validate", "my.yaml", *overrides)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_all_errors_are_said_at_once_and_debug_shows_the_traceback() -> None:
    Path("my.yaml").write_text("model: {image_encoder: {type: eye, wide: 3}}\ntrain: {lr: x}\n")
    arguments = ["validate", "my.yaml", "train.stepz=3"]
    plain = program(*arguments)
    assert plain.stderr.startswith("3 errors:\n")
    assert len(plain.stderr.strip().split("\n")) == 4
    debug = program(*arguments, "--debug")
    assert debug.returncode == 2
    assert "Traceback" in debug.stderr
