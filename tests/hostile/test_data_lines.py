"""Lines of data: an image is a file below the data file, or one that this machine has; nothing is fetched, and nothing shown of others."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
from attacks import DEEP, LINE, Place, payload, refused
from PIL import Image

from loongforge_core.data.conversations import ConversationFiles
from loongforge_core.data.sample import SampleMaker
from loongforge_core.errors import DataError

OUTSIDE, NOT_A_PATH = "leaves the data file's folder", "is no path of a file: nothing is fetched"
IMAGES = {
    "../secret.png": OUTSIDE,
    "images/../../secret.png": OUTSIDE,
    "./../../etc/passwd": OUTSIDE,
    "..": OUTSIDE,
    "http://localhost/x.png": NOT_A_PATH,
    "https://localhost/x.png": NOT_A_PATH,
    "file:///etc/passwd": NOT_A_PATH,
    "s3://bucket/x.png": NOT_A_PATH,
    "data:image/png;base64,iVBORw0KGgo=": NOT_A_PATH,
    "seven.png\0.jpg": NOT_A_PATH,
    "/etc/passwd": "/etc/passwd",
    "/dev/zero": "neither a file nor a folder",
    "pipe": "neither a file nor a folder",
    "~/x.png": "x.png",
    "$HOME/x.png": "HOME/x.png",
    "x" * 5000: "xxx",
    "": "",
    "pickle.png": "pickle.png",
}


@pytest.mark.parametrize(("image", "message"), IMAGES.items(), ids=[name[:40] or "nothing" for name in IMAGES])
def test_an_image_of_a_line(place: Place, maker: SampleMaker, image: str, message: str) -> None:
    Image.new("L", (8, 8), 100).save(place.folder / "secret.png")
    data = place.file("data/train.jsonl", json.dumps({**LINE, "images": [image]}))
    os.mkfifo(place.folder / "data" / "pipe")
    place.file("data/pickle.png", pickle.dumps(payload(place)))
    with pytest.raises(DataError) as caught:
        maker.sample(ConversationFiles([data], ["image"])[0])
    said = str(caught.value)
    assert said.startswith(f"{data}:1: ")
    assert message in said
    assert "root:" not in said, "nothing of the file is shown"


def test_within_its_folder_a_path_may_turn_and_a_link_may_lead_out(place: Place, maker: SampleMaker) -> None:
    """The link is in the folder of who asks for it, and not in what a line says; so is an absolute path of this machine."""
    Image.new("L", (8, 8), 100).save(place.folder / "seven.png")
    data = place.folder / "data"
    (data / "images").mkdir(parents=True)
    (data / "link.png").symlink_to(place.folder / "seven.png")
    shutil.copyfile(place.folder / "seven.png", data / "seven.png")
    for image in ("images/../seven.png", "link.png", str(place.folder / "seven.png")):
        (data / "train.jsonl").write_text(json.dumps({**LINE, "images": [image]}))
        assert maker.sample(ConversationFiles([data / "train.jsonl"], ["image"])[0]).items["image"]


def test_an_image_outside_ends_a_run_before_its_first_step(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    data = place.file("data/train.jsonl", json.dumps({**LINE, "images": ["../secret.png"]}))
    refused(capsys, ["train", "digits", *place.overrides(), f"data.path={data}"], f"error: {data}:1: `images`: '../secret.png' leaves")
    assert not (place.folder / "out" / "metrics.jsonl").exists()


@pytest.mark.parametrize("line", [DEEP, '{"messages":' * 50_000, '{"kind": ' + "9" * 10_000 + "}"])
def test_a_line_without_end(place: Place, line: str) -> None:
    data = place.file("data/train.jsonl", line)
    with pytest.raises(DataError, match=":1: expected a JSON object in one line"):
        ConversationFiles([data], ["image"])
