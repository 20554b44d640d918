"""What a checkpoint says of itself: which model it is of, and which settings its numbers depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core import __version__ as megatron_version

from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.errors import CheckpointError

__all__ = ["RECORD_FILE", "Record", "model_of", "numbers_of", "read_record", "require_model", "require_numbers"]

RECORD_FILE = "loongforge.json"
FORMAT = 1

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)

# Settings of `train` that change speed, memory or files, but no number; everything else must stay as it was when a run is resumed.
FREE_SETTINGS = frozenset({"micro_batch_size", "seq_length", "recompute", "save_interval", "log_interval", "export_hf"})


@dataclass(frozen=True)
class Record:
    """Written into every checkpoint as JSON."""

    step: int
    """Steps done, which is also the position in the data."""
    model: Mapping[str, Any]
    """Recipe, components and their configs by slot, and a digest of the tokenizer."""
    numbers: Mapping[str, Any]
    """The settings and the data that the numbers of a run follow from, by the names they have in YAML."""
    plugins: tuple[str, ...]
    """Their names and versions."""
    megatron_core: str = megatron_version
    torch: str = torch.__version__
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def model_of(composition: Composition) -> dict[str, Any]:
    """What makes two models the same: their tensors mean the same only where all of this is equal."""
    slots = {name: {"type": slot.spec.name, **slot.config.model_dump(mode="json")} for name, slot in composition.slots.items()}
    recipe = {"model_type": composition.recipe.name, **composition.recipe_config.model_dump(mode="json")}
    tokenizer = composition.run.tokenizer
    return {"model": {**recipe, **slots}, "tokenizer": tokenizer and digest(Path(tokenizer))}


def digest(tokenizer: Path) -> str:
    """Of what the folder says, not of where it lies."""
    content = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            content.update(name.encode() + b"\0" + (tokenizer / name).read_bytes())
    return content.hexdigest()


def numbers_of(composition: Composition, data: TrainingData) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on with. Data files are told by their sizes, wherever they lie."""
    run = composition.run
    rates = {
        name: slot.settings.model_dump(mode="json", include={"freeze", "lr", "weight_decay"}) for name, slot in composition.slots.items()
    }
    return {
        "model": rates,
        "train": run.train.model_dump(mode="json", exclude=set(FREE_SETTINGS)),
        "data": {
            "shuffle": run.data.shuffle,
            "augment": json.loads(json.dumps(run.data.augment)),
            "samples": len(data),
            "bytes of path": [path.stat().st_size for path in data.conversations.paths],
        },
    }


def read_record(folder: Path) -> Record:
    """Raises CheckpointError where there is none, or one of a later version of this program."""
    try:
        tree = json.loads((folder / RECORD_FILE).read_text())
        if (found := tree["format"]) != FORMAT:
            raise CheckpointError(f"{folder} is a checkpoint of format {found}; this version of loongforge_core reads {FORMAT}")
        return Record(**{**tree, "plugins": tuple(tree["plugins"])})
    except OSError as error:
        raise CheckpointError(f"{folder} is no checkpoint: {RECORD_FILE} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / RECORD_FILE} is not what a checkpoint says of itself: {error}") from error


def require_model(record: Record, composition: Composition, folder: Path) -> None:
    """Raises CheckpointError naming every key in which the checkpoint is of another model."""
    if found := list(differences(record.model, model_of(composition))):
        raise CheckpointError("\n".join([f"{folder} is a checkpoint of another model:", *found]))


def require_numbers(record: Record, composition: Composition, data: TrainingData, folder: Path) -> None:
    """Raises CheckpointError naming every setting with which the run would not go on as it began."""
    if found := list(differences(record.numbers, numbers_of(composition, data))):
        raise CheckpointError(
            "\n".join(
                [
                    f"{folder} belongs to a run with other settings, which cannot be continued with these:",
                    *found,
                    "change them back, or begin a new run with another output_dir",
                ]
            )
        )


ABSENT = "(not there)"


def differences(theirs: Any, ours: Any, key: str = "") -> Iterator[str]:
    """One line for every leaf that differs."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        names: Sequence[str] = list(dict.fromkeys([*theirs, *ours]))
        for name in names:
            yield from differences(theirs.get(name, ABSENT), ours.get(name, ABSENT), f"{key}.{name}" if key else name)
    elif theirs != ours:
        yield f"  {key}: the checkpoint has {json.dumps(theirs)}, this run has {json.dumps(ours)}"
