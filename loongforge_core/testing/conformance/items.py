"""What encoders and projectors make of items: how much of it, where, and that items do not see each other.

A projector's items are features that lie in the grids that it takes. Shapes: N tokens of all items, W width.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loongforge_core.component import ProcessedItem
from loongforge_core.errors import DataError
from loongforge_core.layers.interfaces import Component, Features
from loongforge_core.testing.conformance import sequences
from loongforge_core.testing.conformance.files import KINDS_OF_FILES
from loongforge_core.testing.conformance.subject import NotApplicable, Subject, fresh
from loongforge_core.testing.conformance.trials import built, difference, features_of, run_backbone, trials

__all__ = ["independence", "leak", "levels", "order", "processor", "token_counts"]

TOLERANCE = 1e-4
"""Of features of about 1: float32 through a few layers, in another order of operations where a batch has another shape."""

MANY = 16


# ---- the processor


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


# ---- how many features


def token_counts(subject: Subject) -> Iterator[str]:
    for modality in subject.modalities:
        items = subject.all_items(modality)
        with built(subject) as component, torch.no_grad():
            for item in items:
                yield from (f"{where(modality, item)}: {said}" for said in counted(subject, component, [item]))
            yield from (f"{len(items)} items together: {said}" for said in counted(subject, component, items))
        yield from announced_sizes(subject, modality, items)


def counted(subject: Subject, component: Component[Any], items: Sequence[ProcessedItem]) -> Iterator[str]:
    config = subject.config
    grids = tuple(config.token_grid(item.size) for item in items)
    features = features_of(component, items)
    expected = sum(math.prod(grid) for grid in grids)
    width = config.feature_size if subject.spec.kind == "encoder" else config.hidden_size
    if tuple(features.hidden_NW.shape) != (expected, width):
        yield f"features are {list(features.hidden_NW.shape)}, its config says {[expected, width]} (grids {grids})"
    if features.grids != grids:
        yield f"it emits the grids {features.grids}, its config's `token_grid` says {grids}"
    if len(features.levels) != config.num_levels:
        yield f"it emits {len(features.levels)} levels, its config says {config.num_levels}"
    for index, level in enumerate(features.levels):
        if level.shape != features.hidden_NW.shape:
            yield f"level {index} is {list(level.shape)}, the features are {list(features.hidden_NW.shape)}"
    if subject.spec.kind == "encoder" and config.num_tokens(items[0].size) != math.prod(grids[0]):
        yield f"`num_tokens` says {config.num_tokens(items[0].size)}, `token_grid` {grids[0]}"


def announced_sizes(subject: Subject, modality: str, items: Sequence[ProcessedItem]) -> Iterator[str]:
    """What `validate` is told of the processor's sizes."""
    if subject.spec.kind != "encoder":
        return
    fixed, largest = subject.config.fixed_item_size, subject.config.largest_item_size(modality)
    for item in items:
        if fixed is not None and subject.config.token_grid(item.size) != subject.config.token_grid(fixed):
            yield f"{where(modality, item)}: `fixed_item_size` says that every item is {fixed}"
        if largest is not None and subject.config.num_tokens(item.size) > (most := subject.config.num_tokens(largest)):
            yield f"{where(modality, item)}: {subject.config.num_tokens(item.size)} tokens, `largest_item_size` says at most {most}"


def where(modality: str, item: ProcessedItem) -> str:
    return f"{modality} of size {item.size}"


# ---- items do not see each other


def order(subject: Subject) -> Iterator[str]:
    for modality in subject.modalities:
        items = several(subject, modality)
        with built(subject) as component, torch.no_grad():
            straight = by_item(features_of(component, items))
            for name, permutation in permutations(len(items)).items():
                given = by_item(features_of(component, [items[index] for index in permutation]))
                yield from (
                    f"{where(modality, items[index])}: its features differ by {worst:.2g} where it is number {place + 1} of "
                    f"{len(items)} ({name}) instead of number {index + 1}"
                    for place, index in enumerate(permutation)
                    if (worst := difference(given[place], straight[index])) > TOLERANCE
                )


def permutations(number: int) -> Mapping[str, Sequence[int]]:
    rows = list(range(number))
    return {"reversed": rows[::-1], "the first one last": rows[1:] + rows[:1]}


def independence(subject: Subject) -> Iterator[str]:
    for modality in subject.modalities:
        items = several(subject, modality)
        with built(subject) as component, torch.no_grad():
            together = by_item(features_of(component, items))
            for index, item in enumerate(items):
                (alone,) = by_item(features_of(component, [item]))
                if (worst := difference(together[index], alone)) > TOLERANCE:
                    yield (
                        f"{where(modality, item)}: its features differ by {worst:.2g} beside {len(items) - 1} others from those alone, "
                        f"allowed {TOLERANCE}"
                    )


def leak(subject: Subject) -> Iterator[str]:
    if subject.spec.kind == "backbone":
        yield from sequences.leak(subject)
        return
    for modality in subject.modalities:
        items = several(subject, modality)
        with built(subject) as component, torch.no_grad():
            before = by_item(features_of(component, items))
            for index in (0, len(items) // 2, len(items) - 1):
                changed = [replace(item, inputs=other_content(item)) if each == index else item for each, item in enumerate(items)]
                after = by_item(features_of(component, changed))
                if difference(after[index], before[index]) <= TOLERANCE:
                    yield f"{where(modality, items[index])}, number {index + 1}: another content changes nothing in its own features"
                for other in (each for each in range(len(items)) if each != index):
                    if (worst := difference(after[other], before[other])) > TOLERANCE:
                        yield (
                            f"{where(modality, items[other])}, number {other + 1}: its features change by {worst:.2g} where the content of "
                            f"number {index + 1} changes"
                        )


def other_content(item: ProcessedItem) -> Mapping[str, np.ndarray]:
    """Other values of the same shapes. A few whole numbers, which may be sizes or indices, stay; many are turned round."""
    random = np.random.default_rng(9)

    def other(value: np.ndarray) -> np.ndarray:
        if value.dtype.kind == "f":
            return (3 * random.normal(size=value.shape)).astype(value.dtype)
        return value if value.size < MANY else np.ascontiguousarray(value[::-1])

    return {name: other(value) for name, value in item.inputs.items()}


def several(subject: Subject, modality: str) -> Sequence[ProcessedItem]:
    items = subject.items(modality)
    if len(items) < 2:
        raise NotApplicable(f"one item of {modality} alone cannot tell; `Processor.examples` should write several")
    return items


def by_item(features: Features) -> list[Tensor]:
    """Each item's features and levels `[levels + 1, n, W]`. Raises NotApplicable where nobody can say which are whose."""
    lengths = [math.prod(grid) for grid in features.grids]
    if any(len(each) != sum(lengths) for each in (features.hidden_NW, *features.levels)):
        raise NotApplicable("its features are not as many as their grids say, so that items cannot be told apart: see `token_counts`")
    stacked_lNW = torch.stack((features.hidden_NW, *features.levels))
    return list(torch.split(stacked_lNW, lengths, dim=1))


# ---- levels


def levels(subject: Subject) -> Iterator[str]:
    number = subject.levels_taken(subject.composition)
    if not number:
        raise NotApplicable("it takes no levels")
    if subject.spec.kind == "backbone":
        yield from levels_reach_logits(subject)
        return
    items = subject.items(subject.modality)
    with built(subject) as component, torch.no_grad():
        features = features_of(component, items)
        if len(features.levels) != number:
            yield f"of {number} levels it gives {len(features.levels)}"
            return
        for index, level_NW in enumerate(features.levels):
            changed = [replace(item, inputs={**item.inputs, f"level {index}": -item.inputs[f"level {index}"]}) for item in items]
            after = features_of(component, changed)
            if difference(after.levels[index], level_NW) < TOLERANCE:
                yield f"level {index} does not depend on the encoder's level {index}"
            yield from in_other_places(component, items, index, features)
            others = [features.hidden_NW, *(each for other, each in enumerate(features.levels) if other != index)]
            theirs = [after.hidden_NW, *(each for other, each in enumerate(after.levels) if other != index)]
            if any(difference(given, expected) > TOLERANCE for given, expected in zip(theirs, others)):
                yield f"what it makes of the features or of another level depends on level {index}"


def in_other_places(component: Component[Any], items: Sequence[ProcessedItem], index: int, before: Features) -> Iterator[str]:
    """A row of a level reaches the tokens that the row of the features in its place reaches.

    It may reach more of them, or fewer: features may be mixed within an item, and levels not.
    """
    rows = telling_rows(items)
    for row in np.random.default_rng(4).choice(rows, size=min(len(rows), 5), replace=False):
        turned, level_turned = (features_of(component, turned_in(items, name, row)) for name in ("values", f"level {index}"))
        by_features = changed_rows(turned.hidden_NW, before.hidden_NW)
        by_level = changed_rows(level_turned.levels[index], before.levels[index])
        common = by_features & by_level
        if common not in (by_features, by_level) or bool(by_features) != bool(by_level):
            yield (
                f"row {row} of level {index} reaches the tokens {sorted(by_level)} of the level; "
                f"of the features it reaches {sorted(by_features)}"
            )
            return


def telling_rows(items: Sequence[ProcessedItem]) -> list[int]:
    """Of all items' rows, those of items that are more than two rows high and wide, where there are any: others fit in one block."""
    lengths = [len(item.inputs["values"]) for item in items]
    starts = np.cumsum([0, *lengths])
    wide = [index for index, item in enumerate(items) if len(item.size) > 1 and min(item.size[-2:]) > 2]
    return [row for index in wide or range(len(items)) for row in range(starts[index], starts[index] + lengths[index])]


def turned_in(items: Sequence[ProcessedItem], name: str, row: int) -> list[ProcessedItem]:
    """With the sign of one row turned, of all items' rows."""
    changed, start = [], 0
    for item in items:
        values = item.inputs[name].copy()
        if start <= row < start + len(values):
            values[row - start] *= -1
        start += len(values)
        changed.append(replace(item, inputs={**item.inputs, name: values}))
    return changed


def changed_rows(after_NW: Tensor, before_NW: Tensor) -> set[int]:
    return set(((after_NW - before_NW).abs().amax(dim=1) > TOLERANCE).nonzero().flatten().tolist())


def levels_reach_logits(subject: Subject) -> Iterator[str]:
    (trial,) = trials(subject)
    with built(subject) as component, torch.no_grad():
        (before,) = trial.run(component)
        for name, level_sbh in trial.tensors.items():
            if name.startswith("level "):
                (after,) = run_backbone(component, {**trial.tensors, name: torch.zeros_like(level_sbh)})
                if difference(after, before) < TOLERANCE:
                    yield f"{name} changes no logits"
