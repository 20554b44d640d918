"""Lines are found where they are, in files of every kind, and their index is one of their file as it is now."""

from __future__ import annotations

import logging
import os
import pickle
import random
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from loongforge_core.data import line_index, lines
from loongforge_core.data.line_index import UnreadableFile, data_digest
from loongforge_core.data.lines import open_lines
from loongforge_core.errors import DataError


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is one whose index is kept."""
    monkeypatch.setattr(lines, "INDEXED_BYTES", 0)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "data.jsonl"
        path.write_bytes(content)
        return path

    return write


def read_all(path: Path) -> list[tuple[int, bytes]]:
    found = open_lines(path)
    return [(found.number(line), found.read(line)) for line in range(len(found))]


def as_python_reads(content: bytes) -> list[tuple[int, bytes]]:
    return [(number, line.rstrip()) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]


CONTENTS = {
    "one line": b"a\n",
    "no newline at the end": b"a\nb",
    "blank lines": b"\n\n a\n\n \t\nb\n\n  \n",
    "blank at the end": b"a\nb\n   ",
    "lines of Windows": b"a\r\n\r\nb\r\n",
    "a byte order mark": b"\xef\xbb\xbfa\nb\n",
    "not UTF-8": b"\xff\xa0\nb\n",
    "a line separator of Unicode, which is text": "a\u2028b\x85\n c\n".encode(),
    "an old Mac's line": b"a\rb\n",
}


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
@pytest.mark.parametrize("case", CONTENTS)
def test_lines_are_found_wherever_blocks_end(
    case: str, block: int, write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_index, "BLOCK", block)
    assert read_all(write(CONTENTS[case])) == as_python_reads(CONTENTS[case])


def test_any_mixture_of_lines(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_index, "BLOCK", 7)
    for seed in range(100):
        choose = random.Random(seed).choices
        content = b"".join(choose([b"\n", b" ", b"\r\n", b"x", b"  y y\n", b"longer than a block\n"], k=20)) + b"z"
        assert read_all(write(content)) == as_python_reads(content)


@pytest.mark.parametrize("content", [b"", b"\n \n\r\n"])
def test_a_file_without_lines(content: bytes, write: Callable[[bytes], Path]) -> None:
    with pytest.raises(DataError, match=r"data.jsonl: the data file is empty"):
        open_lines(write(content))


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PAR1", "Parquet"), ('{"a": 1}'.encode("utf-16"), "UTF-16")],
)
def test_a_file_of_another_kind(content: bytes, kind: str, write: Callable[[bytes], Path]) -> None:
    with pytest.raises(DataError, match=rf"data.jsonl: expected JSON lines, but this file is .*{kind}"):
        open_lines(write(content))


def test_a_line_without_end_is_not_read(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 100)
    found = open_lines(write(b"a\n" + b"x" * 100 + b"\n"))
    with pytest.raises(DataError, match=r"data.jsonl:2: a line of 101 bytes; .* at most 100 bytes"):
        found.read(1)


# ---- an index that is kept


@pytest.mark.usefixtures("large")
def test_an_index_is_written_once_and_mapped(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(CONTENTS["blank lines"])
    first = open_lines(path)
    assert sorted(path.parent.iterdir()) == [path, path.with_name("data.jsonl.index")]
    monkeypatch.setattr(line_index, "found_lines", None)  # nobody looks through the file again
    again = open_lines(path)
    assert [again.read(0), again.read(1), again.number(1), again.digest] == [b" a", b"b", 6, data_digest(path)]
    assert first.mapped == again.mapped == path.with_name("data.jsonl.index")


@pytest.mark.usefixtures("large")
def test_a_worker_process_maps_the_index_and_is_sent_no_more_than_its_name(write: Callable[[bytes], Path]) -> None:
    found = open_lines(write(b"line\n" * 10_000))
    sent = pickle.dumps(found)
    assert len(sent) < 1000
    assert pickle.loads(sent).read(9_999) == b"line"
    found.path.write_bytes(b"other\n" * 10_000)
    open_lines(found.path)
    with pytest.raises(UnreadableFile, match=r"data.jsonl has changed since its lines were found; start again"):
        pickle.loads(sent)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("damage", [b"", b"damaged", bytes(8 * 40)])
def test_what_is_no_index_of_this_file_is_replaced(damage: bytes, write: Callable[[bytes], Path]) -> None:
    path = write(b"a\nb\n")
    index = path.with_name("data.jsonl.index")
    whole = open_lines(path) and index.read_bytes()
    for content in (damage, whole[:-8], whole + bytes(8)):
        index.write_bytes(content)
        assert read_all(path) == [(1, b"a"), (2, b"b")]
        assert index.read_bytes() == whole


@pytest.mark.usefixtures("large")
def test_a_changed_file_has_a_new_index(write: Callable[[bytes], Path]) -> None:
    path = write(b"one\ntwo\n")
    digests = {open_lines(path).digest}
    write(b"o\ne\ntwo\n")  # as long as before
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    digests.add(open_lines(path).digest)
    assert read_all(path) == [(1, b"o"), (2, b"e"), (3, b"two")]
    assert len(digests) == 2


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("content", [b"one\ntw\no\n", b"on\netwo\n", b"one", b"onetwo..", b"one\n\n\n\n\n"])
def test_a_file_that_changes_while_it_is_in_use_is_noticed(
    content: bytes, kept: bool, write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kept:
        monkeypatch.setattr(lines, "INDEXED_BYTES", 0)
    found = open_lines(write(b"one\ntwo\n"))
    write(content)
    with pytest.raises(UnreadableFile, match=r"data.jsonl:2: the file has changed since its lines were found; start again"):
        found.read(1)
    found.path.unlink()
    with pytest.raises(UnreadableFile, match=r"data.jsonl: cannot read this data file: No such file"):
        found.read(0)


@pytest.mark.usefixtures("large")
def test_where_the_data_cannot_be_written_the_index_lies_elsewhere(
    write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(b"a\nb\n")
    elsewhere, save = path.parent / "run" / "indexes", lines.save_index

    def read_only(data: Path, place: Path) -> None:
        if place.parent == path.parent:
            raise OSError(30, "Read-only file system")
        save(data, place)

    monkeypatch.setattr(lines, "save_index", read_only)
    first, second = (open_lines(path, elsewhere=elsewhere).mapped for _ in range(2))
    assert first is not None and first == second and first.parent == elsewhere and list(elsewhere.iterdir()) == [first]
    with caplog.at_level(logging.WARNING):
        nowhere = open_lines(path)
    assert nowhere.mapped is None and nowhere.read(1) == b"b" and pickle.loads(pickle.dumps(nowhere)).read(0) == b"a"
    assert caplog.messages == [f"{path}: every process holds the index of its lines, which cannot be written: {path}.index"]


@pytest.mark.usefixtures("large")
def test_an_index_that_cannot_be_finished_leaves_nothing(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(b"a\nb\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert open_lines(path).mapped is None
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("large")
def test_a_file_that_is_being_written_has_no_index(write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = write(b"a\nb\n"), data_digest

    def while_it_grows(found: Path) -> str:
        with found.open("ab") as file:
            file.write(b"c\n")
        return digest(found)

    monkeypatch.setattr(line_index, "data_digest", while_it_grows)
    with pytest.raises(DataError, match=r"data.jsonl: something writes to this data file while it is read"):
        open_lines(path)
    assert list(path.parent.iterdir()) == [path]


def test_fifty_thousand_lines_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fiftieth of the file while its lines are found the first time, and nothing of it after."""
    path, block = tmp_path / "data.jsonl", b'{"messages": "' + b"x" * 600 + b'"}\n'
    path.write_bytes(block * 50_000)
    monkeypatch.setattr(lines, "INDEXED_BYTES", 2**20)
    monkeypatch.setattr(line_index, "WHOLE_BYTES", 2**20)
    monkeypatch.setattr(line_index, "BLOCK", 2**18)
    for share in (0.05, 0.005):
        tracemalloc.start()
        found = open_lines(path)
        assert len(found) == 50_000 and found.read(49_999) == block.rstrip()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < share * path.stat().st_size
    assert isinstance(found.starts.base, np.memmap)


# ---- digests


@pytest.mark.parametrize(("size", "changed"), [(60, range(60)), (64, range(64)), (90, [*range(8), *range(82, 90), 41]), (91, [91])])
def test_a_large_data_file_is_told_by_blocks(size: int, changed: Iterable[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 64 bytes it is read whole here; beyond, eight blocks of eight bytes, the first and the last among them."""
    monkeypatch.setattr(line_index, "WHOLE_BYTES", 64)
    monkeypatch.setattr(line_index, "NUM_BLOCKS", 8)
    path = tmp_path / "data"
    path.write_bytes(bytes(size))
    digests = [data_digest(path)]
    for place in changed:
        path.write_bytes(bytes(place) + b"x" + bytes(max(0, size - place - 1)))
        digests.append(data_digest(path))
    assert len(set(digests)) == len(digests)
