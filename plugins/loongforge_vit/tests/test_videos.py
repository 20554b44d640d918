"""A video's frames: the files of a folder in order, or those that a list names, which reaches nothing outside its own folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from loongforge_vit.videos import video_frames
from pictures import noise
from PIL import Image

from loongforge_core.errors import DataError

HOSTILE = {
    "../secret.png": "leaves the data file's folder",
    "frames/../../secret.png": "leaves the data file's folder",
    "http://localhost/0.png": "is no path of a file",
    "pipe": "neither a file nor a folder",
    "/dev/zero": "neither a file nor a folder",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_frame(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    film = tmp_path / "film.json"
    film.write_text(json.dumps({"frames": ["0.png", name], "fps": 1}))
    with pytest.raises(DataError, match=HOSTILE[name]) as caught:
        video_frames(film, 1.0)
    assert str(caught.value).startswith(f"{film}: ")


NO_LISTS = {
    "nothing": "",
    "a list": "[1]",
    "a word": '{"frames": "0.png", "fps": 1}',
    "no rate": '{"frames": ["0.png"]}',
    "rate zero": '{"frames": ["0.png"], "fps": 0}',
    "no finite rate": '{"frames": [], "fps": Infinity}',
    "a key twice": '{"frames": ["0.png"], "frames": ["1.png"], "fps": 1}',
    "lists without end": "[" * 100_000,
    "no text": "\udcff",
}


@pytest.mark.parametrize("text", NO_LISTS.values(), ids=NO_LISTS)
def test_what_is_no_list_of_frames(text: str, tmp_path: Path) -> None:
    film = tmp_path / "film.json"
    film.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"film.json: not a video; expected a folder of frames, or a JSON file"):
        video_frames(film, 1.0)


def test_frames_beside_the_list_or_below_it_or_anywhere_by_an_absolute_path(tmp_path: Path) -> None:
    names = ["0.png", "more/1.png", "more/../2.png", str(tmp_path / "3.png")]
    (tmp_path / "film.json").write_text(json.dumps({"frames": names, "fps": 2}))
    assert video_frames(tmp_path / "film.json", 1.0) == ([tmp_path / name for name in names], 2.0)


@pytest.mark.parametrize("names", [["9.png", "10.png"], ["09.png", "10.png"], ["a1_b9.png", "a1_b10.png"], ["1.png", "1b.png", "2.png"]])
def test_frames_of_a_folder_are_in_the_order_of_their_numbers(names: list[str], tmp_path: Path) -> None:
    for name in names:
        Image.fromarray(noise(32, 32, 3)).save(tmp_path / name)
    assert [file.name for file in video_frames(tmp_path, 1.0)[0]] == names
