"""The digits data set: scikit-learn's 1,797 scanned digits as ordinary conversations files.

    train.jsonl                  questions about the training images
    test.jsonl                   questions about the held-out images, a fifth of all
    settings_train.jsonl         for choosing settings without looking at held-out images: the training images but for a tenth,
    settings_validation.jsonl    which these questions are about
    images/0000.png              the scans as they are, 8x8 grey pixels, numbered as in scikit-learn

The split is fixed: by a digest of each image's number, the same share of every digit, on any machine and with any version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from loongforge_models.digits.questions import Question, evaluation_questions, training_questions
from loongforge_models.whole_folder import write_whole

__all__ = ["Split", "prepare", "split", "write_scans"]

NUM_HELD_OUT = 360
NUM_VALIDATION = 144
FILES = ("train.jsonl", "test.jsonl", "images")


@dataclass(frozen=True)
class Split:
    """Numbers of images in scikit-learn's order."""

    training: tuple[int, ...]
    held_out: tuple[int, ...]
    validation: tuple[int, ...]
    """Part of the training images."""


def prepare(folder: Path) -> None:
    """Writes the data set into `folder`, all or nothing; does nothing where it is already.

    Raises DataError when the folder holds something else.
    """
    write_whole(folder, "digits", FILES, write)


def split(labels: Sequence[int]) -> Split:
    """Training, held-out and validation images; each part has its share of every digit."""
    held_out = stratified(labels, range(len(labels)), NUM_HELD_OUT)
    training = sorted(set(range(len(labels))) - set(held_out))
    return Split(tuple(training), held_out, stratified(labels, training, NUM_VALIDATION))


def stratified(labels: Sequence[int], images: Sequence[int], count: int) -> tuple[int, ...]:
    """`count` of the images, of each label its share; where shares are not whole, the largest remainders are rounded up."""
    by_label = {label: [image for image in images if labels[image] == label] for label in sorted(set(labels))}
    shares = {label: divmod(len(members) * count, len(images)) for label, members in by_label.items()}
    quotas = {label: whole for label, (whole, _) in shares.items()}
    for label in sorted(shares, key=lambda label: (-shares[label][1], label))[: count - sum(quotas.values())]:
        quotas[label] += 1
    return tuple(sorted(image for label, members in by_label.items() for image in sorted(members, key=digest)[: quotas[label]]))


def digest(image: int) -> str:
    return hashlib.sha256(f"digits:{image}".encode()).hexdigest()


def write(folder: Path) -> None:
    labels = write_scans(folder / "images")
    parts = split(labels)
    remaining = sorted(set(parts.training) - set(parts.validation))
    write_lines(folder / "train.jsonl", training_questions(parts.training, labels))
    write_lines(folder / "test.jsonl", evaluation_questions(parts.held_out, labels))
    write_lines(folder / "settings_train.jsonl", training_questions(remaining, labels))
    write_lines(folder / "settings_validation.jsonl", evaluation_questions(parts.validation, labels))


def write_scans(folder: Path) -> list[int]:
    """All scans, as `0000.png` and so on in a new folder; the digit of each."""
    from sklearn.datasets import load_digits  # takes a second, which a data set that is there already need not

    scans = load_digits()
    folder.mkdir()
    for number, scan in enumerate(scans.images):
        pixels = np.rint(scan * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return [int(label) for label in scans.target]


def write_lines(path: Path, questions: Sequence[Question]) -> None:
    path.write_text("".join(json.dumps(question.line("images")) + "\n" for question in questions), encoding="utf-8")
