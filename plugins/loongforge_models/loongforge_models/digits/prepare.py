"""The digits data set: scikit-learn's 1,797 scanned digits as an ordinary conversations file.

    train.jsonl        questions about the training images, sums asked most; text-only sums too
    validation.jsonl   questions about images cut from the training images, for choosing settings
    test.jsonl         questions about the held-out fifth of the images
    images/0000.png    the scans as they are, 8x8 grey pixels, numbered as in scikit-learn

The split is fixed: by a digest of each image's number, the same share of every digit, on any machine and with any version.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loongforge_core.errors import DataError

__all__ = ["prepare", "split"]

NUM_HELD_OUT = 360
NUM_VALIDATION = 144
NUM_TRAINING_LINES = 12_000
NUM_SYSTEM_PROMPTS = 200
NUM_SECOND_TURNS = 400
SEED = "digits"

WORDINGS = {"single_digit": ("Digit?", "Read."), "two_image_sum": ("Sum?", "Add."), "text_sum": ("{0}+{1}?", "{0}+{1}=")}
"""Short, because a byte is a token. One is as likely as another."""
FILES = ("train.jsonl", "validation.jsonl", "test.jsonl", "images")

Line = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Numbers of images in scikit-learn's order."""

    training: tuple[int, ...]
    validation: tuple[int, ...]
    held_out: tuple[int, ...]


def prepare(folder: Path) -> None:
    """Writes the data set into `folder`, all or nothing; does nothing where it is already.

    Raises DataError when the folder holds something else.
    """
    if all((folder / name).exists() for name in FILES):
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} holds something else; the digits data set needs a new or an empty folder ({', '.join(FILES)})")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(unfinished)
        unfinished.chmod(0o755)
        os.replace(unfinished, folder)
    except OSError:
        if not all((folder / name).exists() for name in FILES):  # else another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def split(labels: Sequence[int]) -> Split:
    """Held-out, validation and training images: each has its share of every digit."""
    held_out = _stratified(labels, range(len(labels)), NUM_HELD_OUT)
    rest = sorted(set(range(len(labels))) - set(held_out))
    validation = _stratified(labels, rest, NUM_VALIDATION)
    return Split(tuple(sorted(set(rest) - set(validation))), validation, held_out)


def _stratified(labels: Sequence[int], images: Sequence[int], count: int) -> tuple[int, ...]:
    """`count` of the images, of each label its share; where shares are not whole, the largest remainders are rounded up."""
    by_label = {label: [image for image in images if labels[image] == label] for label in sorted(set(labels))}
    quotas = {label: len(members) * count // len(images) for label, members in by_label.items()}
    by_remainder = sorted(by_label, key=lambda label: (-(len(by_label[label]) * count % len(images)), label))
    for label in by_remainder[: count - sum(quotas.values())]:
        quotas[label] += 1
    return tuple(sorted(image for label, members in by_label.items() for image in sorted(members, key=_digest)[: quotas[label]]))


def _digest(image: int) -> str:
    return hashlib.sha256(f"{SEED}:{image}".encode()).hexdigest()


def _write(folder: Path) -> None:
    from sklearn.datasets import load_digits

    scans = load_digits()
    labels = [int(label) for label in scans.target]
    (folder / "images").mkdir()
    for number, scan in enumerate(scans.images):
        pixels = np.rint(scan * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / _image(number))
    parts = split(labels)
    for name, lines in {
        "train": _training_lines(parts.training, labels),
        "validation": _questions(parts.validation, labels, num_sums=NUM_HELD_OUT),
        "test": _questions(parts.held_out, labels, num_sums=NUM_HELD_OUT),
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


class _Draw:
    """Random choices made of `random.random()`, whose sequence no version of Python changes."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def below(self, count: int) -> int:
        return int(self.random.random() * count)

    def shuffled(self, items: Sequence[Any]) -> list[Any]:
        return sorted(items, key=lambda _: self.random.random())


def _training_lines(images: Sequence[int], labels: Sequence[int]) -> list[Line]:
    """Single digits, two-image sums and text sums as 2 : 3 : 1: sums are learned last, and only when asked often."""
    draw = _Draw(f"{SEED}:train")
    share = NUM_TRAINING_LINES // 6
    singles = [_single(number, labels, draw) for number in _cycle(images, 2 * share, draw)]
    pairs = zip(_cycle(images, 3 * share, draw), _cycle(images, 3 * share, draw), strict=True)
    sums = [_sum(first, second, labels, draw) for first, second in pairs]
    texts = [_text_sum(pair // 10, pair % 10, draw) for pair in _cycle(range(100), share, draw)]
    for line in texts[:NUM_SYSTEM_PROMPTS]:
        line["messages"].insert(0, {"role": "system", "content": "Brief."})
    for line in texts[NUM_SYSTEM_PROMPTS : NUM_SYSTEM_PROMPTS + NUM_SECOND_TURNS]:
        line["messages"] += _text_sum(draw.below(10), draw.below(10), draw)["messages"]
    return draw.shuffled([*singles, *sums, *texts])


def _questions(images: Sequence[int], labels: Sequence[int], *, num_sums: int) -> list[Line]:
    """Each image once, sums of pairs in which each image is as often as any other, every text sum."""
    draw = _Draw(f"{SEED}:{len(images)}")
    singles = [_single(number, labels, draw) for number in images]
    pairs = zip(_cycle(images, num_sums, draw), _cycle(images, num_sums, draw), strict=True)
    sums = [_sum(first, second, labels, draw) for first, second in pairs]
    texts = [_text_sum(first, second, draw) for first in range(10) for second in range(10)]
    return [*singles, *sums, *texts]


def _cycle(items: Sequence[int], count: int, draw: _Draw) -> Iterator[int]:
    """`count` of the items, in a new order each time round."""
    order: list[int] = []
    for _ in range(count):
        order = order or draw.shuffled(items)
        yield order.pop()


def _single(number: int, labels: Sequence[int], draw: _Draw) -> Line:
    return _line("single_digit", f"<image>{_wording('single_digit', draw)}", str(labels[number]), images=[number])


def _sum(first: int, second: int, labels: Sequence[int], draw: _Draw) -> Line:
    question = f"<image><image>{_wording('two_image_sum', draw)}"
    return _line("two_image_sum", question, str(labels[first] + labels[second]), images=[first, second])


def _text_sum(first: int, second: int, draw: _Draw) -> Line:
    return _line("text_sum", _wording("text_sum", draw).format(first, second), str(first + second))


def _wording(kind: str, draw: _Draw) -> str:
    return WORDINGS[kind][draw.below(len(WORDINGS[kind]))]


def _line(kind: str, question: str, answer: str, *, images: Sequence[int] = ()) -> Line:
    messages: list[Mapping[str, str]] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **({"images": [_image(number) for number in images]} if images else {}), "kind": kind}


def _image(number: int) -> str:
    return f"images/{number:04d}.png"
