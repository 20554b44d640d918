"""A list of frames names files of its own folder, as a line of data does: it reaches nothing else, and opens nothing without end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from loongforge_vit.videos import video_frames

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


@pytest.mark.parametrize("text", ["[" * 100_000, '{"frames": ["0.png"], "frames": ["1.png"], "fps": 1}', '{"frames": ["0.png"]}', "\udcff"])
def test_what_is_no_list_of_frames(text: str, tmp_path: Path) -> None:
    film = tmp_path / "film.json"
    film.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match="not a video; expected a folder of frames, or a JSON file"):
        video_frames(film, 1.0)


def test_frames_beside_the_list_or_below_it_or_anywhere_by_an_absolute_path(tmp_path: Path) -> None:
    names = ["0.png", "more/1.png", "more/../2.png", str(tmp_path / "3.png")]
    (tmp_path / "film.json").write_text(json.dumps({"frames": names, "fps": 2}))
    assert video_frames(tmp_path / "film.json", 1.0) == ([tmp_path / name for name in names], 2.0)
