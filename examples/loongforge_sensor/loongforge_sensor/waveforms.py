"""A data set made of nothing: noisy waveforms of different lengths, and what there is to ask about them.

train.jsonl, test.jsonl       conversations: a line has `messages`, the files of its items (`waveforms`) and a `kind`
waveforms/test_0000.npy       one waveform each, float32
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SHAPES", "prepare"]

NUM_WAVEFORMS = {"test": 200, "train": 3000}  # train.jsonl is written last: where it is, all is
LENGTHS, PERIODS = (96, 192), (2, 6)
NOISE = 0.1

SHAPES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "sine": lambda phase: np.sin(2 * np.pi * phase),
    "square": lambda phase: np.where(phase % 1 < 0.5, 1.0, -1.0),
    "triangle": lambda phase: 4 * np.abs(phase % 1 - 0.5) - 1,
    "ramp": lambda phase: 2 * (phase % 1) - 1,
}


def prepare(folder: Path) -> None:
    """Writes the data set into `folder`, the same every time; does nothing where it is already."""
    if (folder / "train.jsonl").exists():
        return
    (folder / "waveforms").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for part, count in NUM_WAVEFORMS.items():
        lines = [line for number in range(count) for line in questions(folder, f"waveforms/{part}_{number:04d}.npy", random)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def questions(folder: Path, path: str, random: np.random.Generator) -> list[dict[str, Any]]:
    """Draws a waveform, writes it to `path` in `folder`, and asks two things about it."""
    shape = str(random.choice(list(SHAPES)))
    length, periods = random.integers(*LENGTHS, endpoint=True), random.integers(*PERIODS, endpoint=True)
    phase = periods * np.arange(length) / length + random.uniform()
    np.save(folder / path, (SHAPES[shape](phase) + NOISE * random.normal(size=length)).astype(np.float32))
    return [question("shape", "Shape?", shape, path), question("periods", "Periods?", str(periods), path)]


def question(kind: str, text: str, answer: str, path: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"<waveform>{text}"}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "waveforms": [path], "kind": kind}
