"""What a checkpoint says of itself: which model it is of, which settings its numbers depend on, and the digests of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from megatron.core import __version__ as megatron_version
from pydantic_core import to_jsonable_python

from loongforge_core.config.composition import Composition
from loongforge_core.config.settings import RunSettings
from loongforge_core.data.mixture import shares_of
from loongforge_core.data.training_data import TrainingData
from loongforge_core.errors import CheckpointError
from loongforge_core.train.checkpoint.digests import Digest
from loongforge_core.weights.tokenizer import TOKENIZER_FILES

__all__ = ["RECORD_FILE", "Record", "model_of", "numbers_of", "read_record", "require_model", "require_numbers"]

RECORD_FILE = "loongforge.json"
FORMAT = 2
OWN_DIGEST = "sha256"
"""In the file, the digest of everything else in it."""

# Settings of `train` that change speed, memory or files, but no number; everything else must stay as it was when a run is resumed.
FREE_SETTINGS = frozenset(
    {
        *("micro_batch_size", "seq_length", "recompute", "save_interval", "keep_checkpoints", "log_interval", "export_hf"),
        *("max_skipped_steps", "eval_interval", "save_retain_interval"),
    }
)

# Where lines that are too long are skipped, what is too long changes numbers.
LONGEST = "train.seq_length of a line that is not skipped"


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
    skipped: Mapping[str, Any] = field(default_factory=dict)
    """The steps that were not taken (`skipped_steps.py`)."""
    files: Mapping[str, Digest] = field(default_factory=dict)
    """The checkpoint's, this one excepted, by name; none in checkpoints that were written before there were digests."""
    megatron_core: str = megatron_version
    torch: str = torch.__version__
    format: int = FORMAT

    def to_json(self) -> str:
        tree = asdict(self)
        return json.dumps({**tree, OWN_DIGEST: tree_digest(tree)}, indent=2) + "\n"


def tree_digest(tree: Mapping[str, Any]) -> str:
    """Of what JSON says, however it is laid out."""
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


def model_of(composition: Composition) -> dict[str, Any]:
    """What makes two models the same: their tensors mean the same only where all of this is equal."""
    slots = {name: {"type": slot.spec.name, **slot.config.model_dump(mode="json")} for name, slot in composition.slots.items()}
    recipe = {"model_type": composition.recipe.name, **composition.recipe_config.model_dump(mode="json")}
    tokenizer = composition.run.tokenizer
    foundation = composition.foundation
    by_length = foundation.numbers_by_length(composition.run.train.seq_length) if foundation else {}
    model = {**recipe, **slots, **({"by train.seq_length": dict(by_length)} if by_length else {})}
    return {"model": model, "tokenizer": tokenizer and tokenizer_digest(Path(tokenizer))}


def tokenizer_digest(tokenizer: Path) -> str:
    """Of what the folder says, not of where it lies."""
    content = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            content.update(name.encode() + b"\0" + (tokenizer / name).read_bytes())
    return content.hexdigest()


def numbers_of(composition: Composition, data: TrainingData) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on with. Knows nothing of the items that data files name."""
    run = composition.run
    rates = {
        name: slot.settings.model_dump(mode="json", include={"freeze", "lr", "weight_decay"}) for name, slot in composition.slots.items()
    }
    return {
        "model": rates,
        "train": run.train.model_dump(mode="json", exclude={*FREE_SETTINGS, *(() if run.train.start_from else ("start_from",))}),
        "data": data_of(run, data),
    }


def data_of(run: RunSettings, data: TrainingData) -> dict[str, Any]:
    """Which samples there are, and in which order they come. Files are known by what they say, not by where they lie."""
    files = iter(data.conversations.files)
    digests = [[next(files).digest for _ in source.paths] for source in run.data.sources]
    recorded = {
        "shuffle": run.data.shuffle,
        "augment": json.loads(json.dumps(run.data.augment)),
        "samples": len(data),
        "sha256 of path": digests if len(digests) > 1 else digests[0],
    }
    if run.data.on_error == "skip":
        recorded[LONGEST] = run.train.seq_length
    if len(digests) > 1:
        recorded["shares of path"] = [str(share) for share in shares_of([source.weight for source in run.data.sources])]
    return recorded


def read_record(folder: Path) -> Record:
    """Raises CheckpointError where there is none, one that is not as it was written, or one of a later version of this program."""
    try:
        tree = json.loads((folder / RECORD_FILE).read_text())
        if (found := tree["format"]) != FORMAT:
            raise CheckpointError(f"{folder / RECORD_FILE} is of format {found}; this version of loongforge_core reads {FORMAT}")
        own_digest = tree.pop(OWN_DIGEST, None)
        if own_digest != tree_digest(tree) and (own_digest is not None or "files" in tree):
            raise CheckpointError(f"{folder / RECORD_FILE} is not as it was written: what it says has another SHA-256 than it should have")
        files = {name: Digest(**digest) for name, digest in tree.pop("files", {}).items()}
        return Record(**{**tree, "plugins": tuple(tree["plugins"]), "files": files})
    except OSError as error:
        raise CheckpointError(f"{folder} is no checkpoint: {RECORD_FILE} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / RECORD_FILE} is not what a checkpoint says of itself: {error}") from error


def require_model(record: Record, composition: Composition, folder: Path) -> None:
    """Raises CheckpointError naming every key in which the checkpoint is of another model."""
    ours = model_of(composition)
    theirs = {**record.model, "model": with_new_fields(record.model.get("model"), composition)}
    if found := list(differences(theirs, ours)):
        raise CheckpointError("\n".join([f"{folder} is a checkpoint of another model:", *found]))


def with_new_fields(model: Any, composition: Composition) -> Any:
    """What a checkpoint says of its model, with the defaults of fields that a component has got since: it was built as they say."""
    if not isinstance(model, Mapping):
        return model
    filled = dict(model)
    for name, slot in composition.slots.items():
        fields = type(slot.config).model_fields
        defaults = {field: info.get_default(call_default_factory=True) for field, info in fields.items() if not info.is_required()}
        if isinstance(stored := model.get(name), Mapping) and stored.get("type") == slot.spec.name:
            filled[name] = {**to_jsonable_python(defaults), **stored}
    return filled


def require_numbers(record: Record, numbers: Mapping[str, Any], folder: Path) -> None:
    """Raises CheckpointError naming every setting with which the run would not go on as it began."""
    found = list(differences(record.numbers, numbers))
    # What has stopped a run may be skipped from now on, and the other way round.
    if found := [line for line in found if not (LONGEST in line and ABSENT in line)]:
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
