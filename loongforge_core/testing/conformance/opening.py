"""What a processor makes of files: the same of the same content, wherever it lies and whoever opens it, and an error of what is damaged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loongforge_core.component import ProcessedItem
from loongforge_core.errors import DataError
from loongforge_core.testing.conformance.files import KINDS_OF_FILES
from loongforge_core.testing.conformance.subject import Subject, fresh

__all__ = ["processor"]


def processor(subject: Subject) -> Iterator[str]:
    if not subject.spec.processor:
        yield "its specification names no processor: nothing opens the files of its modality"
        return
    for modality, opened in subject.opened.items():
        if not opened:
            yield (
                f"of {modality}, it opens none of the files that the judge can write ({', '.join(KINDS_OF_FILES)}): "
                "override `Processor.examples`, which writes some of its own"
            )
            continue
        opener = subject.registry.load(subject.spec, "processor")(subject.config, modality)
        yield from (f"of {modality}, {said}" for said in made_of(opened, opener))
        yield from (f"of {modality}, {said}" for said in damaged(opened[0][0], opener))
        yield from (f"of {modality}, {said}" for said in under_another_name(subject, opener, *opened[0]))
        yield from (f"of {modality}, {said}" for said in elsewhere(subject, modality, *opened[0]))


def made_of(opened: Sequence[tuple[Path, ProcessedItem]], opener: Any) -> Iterator[str]:
    names = set(opened[0][1].inputs)
    for path, item in opened:
        if set(item.inputs) != names:
            yield f"one file gives the inputs {sorted(names)}, {path.name} gives {sorted(item.inputs)}: they cannot be concatenated"
        if wrong := [name for name, value in item.inputs.items() if not isinstance(value, np.ndarray) or value.ndim == 0]:
            yield f"{', '.join(wrong)} of {path.name} is no numpy array with an axis to concatenate along"
            return
        if not isinstance(item.size, tuple) or not all(isinstance(each, int) for each in item.size):
            yield f"the size of {path.name} is {item.size!r}, expected a tuple of int"
        if wrong := [name for name, value in item.inputs.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]:
            yield f"{', '.join(wrong)} of {path.name} has values that are not finite"
    if not same(opener(opened[0][0]), opened[0][1]):
        yield "the same file opened twice gives two different items"


def same(one: ProcessedItem, other: ProcessedItem) -> bool:
    alike = one.size == other.size and one.inputs.keys() == other.inputs.keys()
    return alike and all(np.array_equal(value, other.inputs[name]) for name, value in one.inputs.items())


def under_another_name(subject: Subject, opener: Any, path: Path, item: ProcessedItem) -> Iterator[str]:
    """What is in a file decides, not what it is called and where it lies."""
    folder = fresh(subject, "renamed")
    folder.mkdir()
    copied = folder / f"another{path.suffix}"
    (shutil.copytree if path.is_dir() else shutil.copyfile)(path, copied)
    try:
        again = opener(copied)
    except DataError:  # a header that lies beside it under the same name, say, did not come along
        return
    if not same(again, item):
        yield "a copy of a file, in another folder under another name, gives another item"


OPEN = """
import hashlib, importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
from pathlib import Path
def load(target):
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
spec, config, modality, path = json.loads(sys.argv[2])
item = load(spec["processor"])(load(spec["config"]).model_validate(config), modality)(Path(path))
print(json.dumps([list(item.size), {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in item.inputs.items()}]))
"""


def elsewhere(subject: Subject, modality: str, path: Path, item: ProcessedItem) -> Iterator[str]:
    """In another process, as a data worker is, Python's own hashes are others."""
    spec = {"processor": subject.spec.processor, "config": subject.spec.config}
    arguments = (json.dumps(sys.path), json.dumps([spec, subject.config.model_dump(mode="json"), modality, str(path)]))
    environment = {**os.environ, "PYTHONHASHSEED": "20261126"}
    ended = subprocess.run([sys.executable, "-c", OPEN, *arguments], capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        yield f"another process cannot open the same file: {(ended.stderr.strip().splitlines() or ['no message'])[-1]}"
        return
    size, digests = json.loads(ended.stdout.strip().splitlines()[-1])
    here = {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in item.inputs.items()}
    if tuple(size) != item.size or digests != here:
        yield "another process makes another item of the same file: each data worker its own"


def damaged(path: Path, opener: Any) -> Iterator[str]:
    """A file that is not there, one that is cut, one that is empty."""
    missing, cut, empty = (path.with_name(f"{name}{path.suffix}") for name in ("missing", "cut", "empty"))
    broken = {"that is missing": missing}
    if path.is_file():
        content = path.read_bytes()
        cut.write_bytes(content[: min(len(content) // 2, 60)])
        empty.write_bytes(b"")
        broken |= {"of which only the beginning is left": cut, "that is empty": empty}
    for what, file in broken.items():
        try:
            opener(file)
        except DataError as error:
            if file.name not in str(error):
                yield f"for a file {what} the DataError does not name the file: {error}"
        except Exception as error:
            yield f"for a file {what} it raises {type(error).__name__} ({error}), expected DataError naming the file"
        else:
            yield f"it opens a file {what} without an error"
