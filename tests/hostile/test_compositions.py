"""YAML: no tag makes an object, no target is called, no environment variable is read, and no file elsewhere is drawn on."""

from __future__ import annotations

import pytest
from attacks import SECRET, Place, refused
from omegaconf import OmegaConf

GOOD = "defaults: [digits]\n"
TAG = "the tag"
ENVIRONMENT = "files read no environment variables"
YAML = {
    "a call": (GOOD + "train: {lr: !!python/object/apply:os.mkdir [CANARY]}", TAG),
    "a call of another kind": (GOOD + "train: !!python/object/new:os.mkdir [CANARY]", TAG),
    "a call with state": (GOOD + "train: !!python/object/apply:os.mkdir {args: [CANARY]}", TAG),
    "an object": (GOOD + "train: !!python/object:argparse.Namespace {a: 1}", TAG),
    "a name": (GOOD + "train: {lr: !!python/name:os.mkdir ''}", TAG),
    "a module": (GOOD + "train: {lr: !!python/module:this ''}", TAG),
    "a tag in a list of defaults": ("defaults: [!!python/object/apply:os.mkdir [CANARY]]", TAG),
    "a tag of a key": (GOOD + "? !!python/object/apply:os.mkdir [CANARY]\n: 1", "is not text"),
    "an instance": (GOOD + "model: {image_encoder: {_target_: os.mkdir, path: CANARY}}", "unknown key"),
    "an instance of data": (GOOD + "data: {augment: {image: {_target_: os.mkdir, path: CANARY}}}", "unknown key"),
    "an instance of everything": (GOOD + "_target_: os.mkdir\npath: CANARY", "unknown key"),
    "a function for a component": (GOOD + "model: {image_encoder: {type: 'os:mkdir'}}", "no encoder 'os:mkdir' is installed"),
    "a function for data": (GOOD + "data: {prepare: 'os:mkdir'}", "no data set 'os:mkdir' is installed"),
    "a function for a loss": (GOOD + "model: {foundation: {loss_func: '${loss_func:os.mkdir}'}}", "my.yaml:2"),
    "Hydra's settings": (GOOD + "hydra: {searchpath: ['file:///']}", "settings of Hydra's own are not read"),
    "Hydra's callbacks": ("defaults: [digits, {override hydra/callbacks: evil}]", "my.yaml"),
    "the environment": (GOOD + "output_dir: ${oc.env:SECRET}", ENVIRONMENT),
    "the environment under another name": (GOOD + "output_dir: ${oc.${train.precision}:SECRET}\ntrain: {precision: env}", ENVIRONMENT),
    "the environment, decoded": (GOOD + "output_dir: ${oc.decode:${oc.env:SECRET}}", ENVIRONMENT),
    "a file of another package": (GOOD + "tokenizer: pkg://json/tool", "no installed plugin's package"),
    "a file outside a package": (GOOD + "tokenizer: pkg://loongforge_models/digits/../../../secret", "leaves its package"),
    "a size elsewhere": ("defaults: [{image_encoder@model.image_encoder: ../../attack/elsewhere}]", "my.yaml:1"),
    "a file elsewhere": ("defaults: [../../attack/elsewhere]", "my.yaml:1"),
}


@pytest.mark.parametrize(("text", "message"), YAML.values(), ids=YAML)
def test_a_composition(place: Place, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    place.file("elsewhere.yaml", f"type: {SECRET}")
    file = place.file("configs/my.yaml", text.replace("CANARY", str(place.canary)))
    refused(capsys, ["validate", str(file)], message)


def test_a_size_of_the_users(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that a composition draws on, as plugins publish them, and as lies in the working directory."""
    place.file("configs/my.yaml", "defaults: [{image_encoder@model.image_encoder: mine}]")
    mine = place.file("configs/image_encoder/mine.yaml", f"type: !!python/object/apply:os.mkdir [{place.canary}]")
    refused(capsys, ["validate", str(place.folder / "configs" / "my.yaml")], f"{mine}:1: type: the tag")


def test_the_environment_on_the_command_line_and_where_others_use_omegaconf(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, ["validate", "digits", "output_dir=${oc.env:SECRET}"], ENVIRONMENT)
    assert OmegaConf.create({"a": "${oc.env:SECRET}"}).a == SECRET, "it is as it was for whoever uses it beside us"
