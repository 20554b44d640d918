"""Composition: the five cases in which plain Hydra fails, whose files win, who wrote what, and every error with its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from loongforge_core.config.compose import Composed, compose_tree
from loongforge_core.config.library import Library, canonical_group
from loongforge_core.config.provenance import COMMAND_LINE
from loongforge_core.errors import ConfigError
from loongforge_core.registry.registry import Registry


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def composed(registry: Registry, config: str, *overrides: str, config_dirs: Sequence[Path] = ()) -> Composed:
    return compose_tree(config, overrides, Library.of(config, registry.config_folders, config_dirs))


def refused(registry: Registry, config: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        composed(registry, config, *overrides)
    return str(caught.value)


COMPLETE = "family1.5/complete_v1.5"


# -------------------------------------------------------------------------------- the five cases of plain Hydra's failing


def test_groups_written_with_parent_folders_reach_published_yaml(registry: Registry, tmp_path: Path) -> None:
    config = write(tmp_path / "a" / "b" / "my.yaml", "defaults:\n  - ../../models/image_encoder@model.image_encoder: eye_small\n")
    assert composed(registry, config).tree == {"model": {"image_encoder": {"type": "eye", "width": 8}}}


def test_the_folder_and_dots_of_a_compositions_name_are_no_keys(registry: Registry) -> None:
    assert set(composed(registry, COMPLETE).tree) == {"model"}


def test_a_composition_in_a_folder_can_be_built_upon(registry: Registry, tmp_path: Path) -> None:
    config = write(tmp_path / "my.yaml", f"defaults: [{COMPLETE}]\nmodel: {{foundation: {{num_layers: 3}}}}\n")
    tree = composed(registry, config).tree
    assert set(tree) == {"model"}
    assert tree["model"]["foundation"] == {"type": "brain", "num_layers": 3, "hidden_size": 16}


def test_a_name_that_two_plugins_publish_is_refused(registry: Registry, tmp_path: Path) -> None:
    write(tmp_path / "other" / "image_encoder" / "eye_small.yaml", "type: eye\nwidth: 99\n")
    registry.register_config_path(tmp_path / "other", distribution="other_plugin", version="2")
    message = refused(registry, COMPLETE)
    assert "toy_plugin 1.0" in message
    assert "other_plugin 2" in message
    own = tmp_path / "mine"
    write(own / "image_encoder" / "eye_small.yaml", "type: eye\nwidth: 5\n")
    assert composed(registry, COMPLETE, config_dirs=[own]).tree["model"]["image_encoder"]["width"] == 5


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_values_are_set_on_the_command_line_whether_yaml_has_them_or_not(registry: Registry, sign: str) -> None:
    tree = composed(registry, COMPLETE, f"{sign}parallel.tensor_model_parallel_size=2", f"{sign}model.foundation.num_layers=7").tree
    assert tree["parallel"] == {"tensor_model_parallel_size": 2}
    assert tree["model"]["foundation"]["num_layers"] == 7


@pytest.mark.parametrize("group", ["image_encoder", "/image_encoder", "../../models/image_encoder", "models/image_encoder"])
def test_groups_are_overridden_on_the_command_line_however_they_are_written(registry: Registry, group: str) -> None:
    assert composed(registry, COMPLETE, f"{group}@model.image_encoder=eye_large").tree["model"]["image_encoder"]["width"] == 16


# ------------------------------------------------------------------------------------------------------------- whose files


@pytest.mark.parametrize(
    "group", ["../../models/image_encoder", "../image_encoder", "models/image_encoder", "/image_encoder", "image_encoder"]
)
def test_groups_are_named_from_the_root(group: str) -> None:
    assert canonical_group(group) == "image_encoder"


def test_the_users_folders_come_before_the_plugins_in_their_order(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path / "configs" / "fam" / "my.yaml", "defaults:\n  - image_encoder@model.image_encoder: eye_small\n")
    folders = [
        tmp_path / "configs" / "fam",
        tmp_path / "configs" / "models",
        tmp_path / "elsewhere" / "configs" / "models",
        tmp_path / "extra",
    ]
    for width, folder in reversed(list(enumerate(folders, start=1))):
        write(folder / "image_encoder" / "eye_small.yaml", f"width: {width}\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for width, folder in enumerate(folders, start=1):
        assert composed(registry, config, config_dirs=[tmp_path / "extra"]).tree["model"]["image_encoder"] == {"width": width}
        (folder / "image_encoder" / "eye_small.yaml").unlink()
    assert composed(registry, config, config_dirs=[tmp_path / "extra"]).tree["model"]["image_encoder"]["width"] == 8


def test_a_file_may_extend_the_published_one_of_its_own_name(registry: Registry, tmp_path: Path) -> None:
    write(tmp_path / "pub" / "base.yaml", "model: {foundation: {type: brain}}\ntrain: {steps: 1}\n")
    registry.register_config_path(tmp_path / "pub")
    config = write(tmp_path / "base.yaml", "defaults: [base]\ntrain: {seed: 2}\n")
    assert composed(registry, config).tree["train"] == {"steps": 1, "seed": 2}


def test_a_fragment_beside_the_file_goes_where_its_folder_says(registry: Registry, tmp_path: Path) -> None:
    write(tmp_path / "train" / "fast.yaml", "steps: 3\n")
    config = write(tmp_path / "my.yaml", "defaults:\n  - train: fast\nmodel: {}\n")
    assert composed(registry, config).tree == {"model": {}, "train": {"steps": 3}}
    assert composed(registry, config, "train={seed: 1}").tree["train"] == {"steps": 3, "seed": 1}


def test_a_folder_without_yaml_is_no_group(registry: Registry, tmp_path: Path) -> None:
    write(tmp_path / "tokenizer" / "tokenizer.json", "{}")
    config = write(tmp_path / "my.yaml", "model: {}\n")
    assert composed(registry, config, "tokenizer=tokenizer").tree["tokenizer"] == "tokenizer"


# -------------------------------------------------------------------------------------------------------------- provenance


def test_the_last_writer_of_every_key_is_known(registry: Registry, tmp_path: Path) -> None:
    config = write(tmp_path / "my.yaml", f"defaults: [{COMPLETE}]\nmodel:\n  foundation:\n    num_layers: 3\ndata: {{path: [a, b]}}\n")
    provenance = composed(registry, config, "model.image_encoder.width=9", "train={lr: 1}").provenance
    published = {folder.path for folder in registry.config_folders}.pop()
    assert provenance.where("model.foundation.num_layers") == f"{config}:4"
    assert provenance.where("model.foundation.hidden_size") == f"{published}/brain2.5/brain_tiny.yaml:3"
    assert provenance.where("model.image_projector.type") == f"{published}/{COMPLETE}.yaml:8"
    assert provenance.where("model.image_encoder.width") == COMMAND_LINE
    assert provenance.where("train.lr") == COMMAND_LINE
    assert provenance.where("data.path.1") == f"{config}:5"
    assert provenance.where("model.foundation.no_such_key") == f"{config}:3"
    assert provenance.where("nowhere") == config


def test_the_file_that_was_read_is_blamed_not_one_of_the_same_name(registry: Registry, tmp_path: Path) -> None:
    config = write(tmp_path / "my.yaml", "defaults:\n  - image_encoder@model.image_encoder: eye_small\n")
    own = write(tmp_path / "image_encoder" / "eye_small.yaml", "# mine\ntype: eye\nwidth: 4\n")
    assert composed(registry, config).provenance.where("model.image_encoder.width") == f"{own}:3"


@pytest.mark.parametrize("misspelt", ["modle", "mod'el"])
def test_a_key_that_only_a_default_leads_to_was_written_by_that_default(registry: Registry, tmp_path: Path, misspelt: str) -> None:
    config = write(tmp_path / "my.yaml", f"train: {{}}\ndefaults:\n  - image_encoder@{misspelt}.image_encoder: eye_small\n")
    assert composed(registry, config).provenance.where(misspelt) == f"{config}:3"


def test_of_one_size_in_two_slots_each_has_its_own_line(registry: Registry, tmp_path: Path) -> None:
    lines = "  - image_encoder@model.image_encoder: eye_small\n  - image_encoder@model.video_encoder: eye_small\n"
    provenance = composed(registry, write(tmp_path / "my.yaml", f"defaults:\n{lines}")).provenance
    assert provenance.where("model.image_encoder") == f"{tmp_path / 'my.yaml'}:2"
    assert provenance.where("model.video_encoder") == f"{tmp_path / 'my.yaml'}:3"


def test_a_key_that_only_a_default_on_the_command_line_leads_to_is_of_the_command_line(registry: Registry) -> None:
    provenance = composed(registry, COMPLETE, "+image_encoder@modle.image_encoder=eye_large").provenance
    assert provenance.where("modle") == provenance.where("modle.image_encoder") == COMMAND_LINE


# ------------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "defaults:\n  - image_encoder@model.image_encoder: eye_smal\n",
            2,
            "no 'eye_smal' in the group 'image_encoder'; did you mean 'eye_small'?",
        ),
        (
            "defaults:\n  - _self_\n  - image_encodr@model.image_encoder: eye_small\n",
            3,
            "no group 'image_encodr'; did you mean 'image_encoder'?",
        ),
        ("defaults:\n  - my_bass\n", 2, "no YAML file 'my_bass'"),
        ("defaults: {a: b}\n", 1, "expected a list"),
        ("defaults:\n  - {a: b, c: d}\n", 2, "expected NAME or GROUP: NAME"),
        ("defaults:\n  - image_encoder: 5\n", 2, "expected NAME or GROUP: NAME"),
        ("a: 1\nb: ${c}\n", 2, "Interpolation key 'c' not found"),
        ("a: 1\nb: ${nothing:c}\n", 2, "there is no ${nothing:...}; valid: act, loss_func"),
        ("a: ???\n", 1, "Missing mandatory value"),
        ("a: ${b}\nb: ${a}\n", 1, "Recursive interpolation detected"),
        ("hydra: {searchpath: [x]}\n", 1, "Hydra's own"),
        ("# @package too many parts\ntrain: {}\n", 0, "Too many components"),
    ],
)
def test_an_error_of_a_file_names_file_and_line(registry: Registry, tmp_path: Path, text: str, line: int, message: str) -> None:
    config = write(tmp_path / "my.yaml", text)
    said = refused(registry, config)
    assert said.startswith(f"{config}:{line}: " if line else f"{config}: ")
    assert message in said


def test_an_error_in_a_published_file_names_that_file(registry: Registry, tmp_path: Path) -> None:
    broken = write(tmp_path / "pub" / "image_encoder" / "odd.yaml", "type: eye\ntype: eye\n")
    registry.register_config_path(tmp_path / "pub")
    assert f"{broken}:2: type: this key is there twice" in refused(registry, COMPLETE, "image_encoder@model.image_encoder=odd")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("train.lr=[1", "cannot be read"),
        ("train.lr=1,2", "several values"),
        ("image_encodr@model.image_encoder=eye_small", "no group 'image_encodr'; did you mean 'image_encoder'?"),
        ("image_encoder@model.image_encoder=eye_smal", "no 'eye_smal' in the group 'image_encoder'; did you mean 'eye_small'?"),
        ("hydra.run.dir=x", "Hydra's own"),
        ("hydra/launcher=x", "Hydra's own"),
        ("train.lr=${nowhere}", "Interpolation key 'nowhere' not found"),
    ],
)
def test_an_error_of_an_override_names_the_command_line(registry: Registry, override: str, message: str) -> None:
    said = refused(registry, COMPLETE, override)
    assert said.startswith("command line")
    assert message in said


def test_all_malformed_overrides_are_said_at_once(registry: Registry) -> None:
    assert len(refused(registry, COMPLETE, "a", "b=1,2", "c=1").split("\n")) == 2


def test_files_that_lead_back_to_themselves_are_refused(registry: Registry, tmp_path: Path) -> None:
    write(tmp_path / "one.yaml", "defaults: [two]\n")
    write(tmp_path / "two.yaml", "defaults: [three]\n")
    write(tmp_path / "three.yaml", "defaults: [two]\n")
    assert "lead back to itself" in refused(registry, "one.yaml")


def test_an_unknown_config_names_the_nearest(registry: Registry, tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", "model: {}\n")
    assert "did you mean 'mine.yaml'?" in refused(registry, "mien.yaml")
    assert "did you mean the file mine.yaml?" in refused(registry, "mine")
    assert f"did you mean {COMPLETE!r}?" in refused(registry, "family1.5/complete_v1")


def test_hydras_global_state_is_left_as_it_was(registry: Registry, tmp_path: Path) -> None:
    write(tmp_path / "host" / "app.yaml", "port: 80\n")
    with initialize_config_dir(str(tmp_path / "host"), version_base="1.2"):
        before = GlobalHydra.instance()
        composed(registry, COMPLETE)
        refused(registry, COMPLETE, "train.lr=${nowhere}")
        assert GlobalHydra.instance() is before
        assert compose("app") == {"port": 80}
    assert not GlobalHydra.instance().is_initialized()
    composed(registry, COMPLETE)
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("~model.foundation.num_layer", "there is no such key; did you mean 'model.foundation.num_layers'?"),
        ("~model.foundation.num_layers=7", "its value is 2 and not 7"),
    ],
)
def test_taking_out_what_is_not_there_is_the_command_lines_fault(registry: Registry, override: str, reason: str) -> None:
    said = refused(registry, COMPLETE, override)
    assert said == f"{COMMAND_LINE}: {override.partition('=')[0]}: nothing to take out: {reason}"
