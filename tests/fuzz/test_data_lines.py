# ruff: noqa: E501 (values side by side)
"""Whatever a data file says, a line becomes a sample or a DataError that names the file and the line."""

from __future__ import annotations

import json
import random
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mutations import damaged
from PIL import Image

from loongforge_core.config.check import load_composition
from loongforge_core.data.collate import collate
from loongforge_core.data.conversations import ConversationFiles
from loongforge_core.data.sample import SampleMaker
from loongforge_core.data.training_data import load_sample_maker
from loongforge_core.errors import DataError
from loongforge_core.registry.registry import Registry

SECONDS = 5
UNUSED = ("data.prepare=null", "data.path=null", "data.eval_path=null")

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e308, 10**400, "", " ", "x", "<image>", "<video>", "<image>" * 40, "<|im_start|>", "\x00", "\ud83d", "é" * 500),
    *([], [[]], {}, [None], ["7.png"], ["7.png"] * 3, [""], ["."], [".."], ["/dev/zero"], ["/etc/passwd"], ["none.png"], ["x" * 5000], ["a\x00b"]),
    *({"type": "text"}, {"type": "image"}, [{"type": "image"}], [{"type": "text", "text": "<image>"}], [{"type": "text", "text": None}]),
    *([{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}], [{"role": "system", "content": "c"}], "{{ 1 }}", "{% raw %}"),
)  # fmt: skip
KEYS = ("messages", "images", "videos", "image", "kind", "role", "content", "type", "text", "", "é", "from", "value")


@pytest.fixture(scope="module")
def maker() -> SampleMaker:
    registry = Registry.discover()
    return load_sample_maker(load_composition("digits", UNUSED, registry=registry), registry)


def lines(folder: Path) -> list[Any]:
    """A few that are right, one of each form."""
    Image.new("L", (8, 8), 100).save(folder / "7.png")
    question, answer = {"role": "user", "content": "<image>Digit?"}, {"role": "assistant", "content": "7"}
    parts = [{"type": "text", "text": "One "}, {"type": "image"}, {"type": "image"}]
    return [
        {"messages": [question, answer], "images": ["7.png"], "kind": "digit"},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}, answer]},
        {
            "messages": [{"role": "user", "content": parts}, answer, {"role": "user", "content": "Sure?"}, answer],
            "images": ["7.png", "7.png"],
        },
    ]


def changed(tree: Any, draw: random.Random) -> Any:
    """One value somewhere in it, or one key, is another one, or gone."""
    if not isinstance(tree, dict | list) or not tree or draw.random() < 0.15:
        return draw.choice(VALUES)
    place = draw.choice(list(tree)) if isinstance(tree, dict) else draw.randrange(len(tree))
    kind = draw.random()
    if kind < 0.1:
        del tree[place]
    elif kind < 0.2 and isinstance(tree, dict):
        tree[draw.choice(KEYS)] = tree.pop(place)
    elif kind < 0.3 and isinstance(tree, list):
        tree.insert(place, tree[draw.randrange(len(tree))])
    else:
        tree[place] = changed(tree[place], draw)
    return tree


def sampled(file: Path, maker: SampleMaker) -> tuple[int, list[str]]:
    """Samples made, and what was said of the lines of which none could be."""
    made, said = [], []
    begin = time.process_time()
    try:
        conversations = ConversationFiles([file], ["image"], check=False)
    except DataError as error:
        assert str(file) in str(error)
        return 0, [str(error)]
    for number in range(len(conversations)):
        try:
            made.append(maker.sample(conversations[number]))
        except DataError as error:
            assert re.search(rf"^{re.escape(str(file))}:\d+: ", str(error)), error
            said.append(str(error))
    if made:
        collate(made)
    assert time.process_time() - begin < SECONDS
    return len(made), said


def test_lines_with_other_values(seeds: range, maker: SampleMaker, tmp_path: Path) -> None:
    for seed in seeds:
        draw, whole = random.Random(seed), lines(tmp_path)
        for index in range(len(whole)):
            whole[index] = changed(whole[index], draw)
        file = tmp_path / "lines.jsonl"
        file.write_text("\n".join(map(json.dumps, whole)) + "\n")
        made, said = sampled(file, maker)
        assert made + len(said) == len(whole)


def test_files_with_other_bytes(seeds: range, maker: SampleMaker, tmp_path: Path) -> None:
    for seed in seeds:
        draw = random.Random(seed)
        content = "\n".join(map(json.dumps, lines(tmp_path))).encode()
        for _ in range(draw.choice((1, 1, 3, 10))):
            content = damaged(content, draw)
        (tmp_path / "lines.jsonl").write_bytes(content)
        sampled(tmp_path / "lines.jsonl", maker)


BOMBS: dict[str, Callable[[], bytes]] = {
    "brackets without end": lambda: b"[" * 1_000_000,
    "objects in objects": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of a million digits": lambda: b'{"messages": ' + b"9" * 1_000_000 + b"}",
    "a million tags": lambda: json.dumps({"messages": [{"role": "user", "content": "<image>" * 1_000_000}]}).encode(),
    "a long answer": lambda: json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * 200_000}]}).encode(),
    "zeros": lambda: bytes(10_000_000),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_of_a_line_ends_early_and_takes_no_memory(kind: str, maker: SampleMaker, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(BOMBS[kind]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made, said = sampled(file, maker)
    assert made == 0 and len(said) == 1 and len(said[0]) < 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kilobytes more than before"
