"""Reading one YAML file: strict, safe, and with the line of every key."""

from __future__ import annotations

from pathlib import Path

import pytest

from loongforge_core.config.document import read_document
from loongforge_core.errors import ConfigError


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_key_has_its_line(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, "a: 1\nb:\n  c: [x,\n    y]\n  d: {e: 2}\n"))
    assert document.tree == {"a": 1, "b": {"c": ["x", "y"], "d": {"e": 2}}}
    assert document.lines == {"a": 1, "b": 2, "b.c": 3, "b.c.0": 3, "b.c.1": 4, "b.d": 5, "b.d.e": 5}
    assert document.where("b.c") == f"{document.path}:3"


def test_what_a_merge_brings_in_counts_from_where_it_is_written(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, "a: &a\n  x: 1\n  y: 1\nb:\n  y: 2\n  <<: *a\n"))
    assert document.tree["b"] == {"x": 1, "y": 2}
    assert (document.lines["b.x"], document.lines["b.y"]) == (2, 5)


def test_numbers_without_a_point_are_numbers_and_dates_are_text(tmp_path: Path) -> None:
    assert read_document(write(tmp_path, "a: 1e-5\nb: 2024-01-01\nc: 1.5\nd: '1e-5'\ne: .5\nf: 10")).tree == {
        "a": 1e-5,
        "b": "2024-01-01",
        "c": 1.5,
        "d": "1e-5",
        "e": 0.5,
        "f": 10,
    }


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    assert read_document(write(tmp_path, "# nothing\n")).tree == {}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: [1\n", 2, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: 1\nb: *nowhere\n", 2, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("a: 1\nb: \x07\n", 2, "is not allowed"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        ("- a\n- b\n", 1, "expected a mapping"),
        ("a: 1\nb: 2\na: 3\n", 3, "a: this key is there twice, first in line 1"),
        ("a:\n  b: 1\n  b: 1\n", 3, "a.b: this key is there twice, first in line 2"),
        ("a: {b: [{c: 1, c: 2}]}\n", 1, "a.b.0.c: this key is there twice"),
        ("a: 1\n5: 2\n", 2, "the key 5 is not text"),
        ("a: 1\nb.c: 2\n", 2, "b.c: a key has no dots: write b: {c: ...}"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "tag"),
        ("a: !!binary aGVsbG8=\n", 1, "the tag !!binary is not read"),
        ("a: !mine x\n", 1, "the tag !mine is not read"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, text: str | bytes, line: int, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_document(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert message in str(caught.value)


def test_all_duplicates_of_a_file_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document(write(tmp_path, "a: 1\na: 2\nb: 1\nb: 2\n"))
    assert [issue.key for issue in caught.value.issues] == ["a", "b"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_document(tmp_path)


def test_deep_nesting_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nest"):
        read_document(write(tmp_path, "a: " + "[" * 100_000 + "]" * 100_000))
    with pytest.raises(ConfigError, match="nest"):
        read_document(write(tmp_path, "- " * 100_000 + "x"))
