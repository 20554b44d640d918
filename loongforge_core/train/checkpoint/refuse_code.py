"""Makes sure that nothing in a checkpoint can execute anything (I7), before Megatron and torch unpickle it.

Tensors are safe: torch reads them with `weights_only`. `.metadata` is a pickle that torch loads as it is, and so are the entries that
are not tensors (Megatron 0.19 keeps its common state in one). Both, and `common.pt` (Megatron 0.16), are read here first in ways that
can name no function, and what does not pass is refused; the same bytes are harmless afterwards.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from loongforge_core.errors import CheckpointError

__all__ = ["refuse_code"]

METADATA_FILE = ".metadata"
COMMON_FILE = "common.pt"

# Their dataclasses and enumerations describe what is stored where.
ALLOWED_MODULES = frozenset({f"torch.distributed.checkpoint.{name}" for name in ("metadata", "filesystem", "planner")})
ALLOWED_NAMES = frozenset(
    {
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),
        ("pathlib", "PurePosixPath"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        *(("torch", str(dtype).removeprefix("torch.")) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)),
    }
)

KEEPING = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
"""What of a pickle says where a value is kept, to be named again."""


class MetadataUnpickler(pickle.Unpickler):
    """Knows the dataclasses of torch's checkpoint metadata and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return member
        if (module, name) in ALLOWED_NAMES:
            return super().find_class(module, name)
        if module in ALLOWED_MODULES and name.isidentifier():
            found = super().find_class(module, name)
            if isinstance(found, type) and (is_dataclass(found) or issubclass(found, Enum)):
                return found
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def member(enumeration: Any, name: Any) -> Any:
    """In the place of `getattr`, by which early releases of Python 3.11 pickle a member of an enumeration."""
    if isinstance(enumeration, type) and issubclass(enumeration, Enum) and name in enumeration.__members__:
        return enumeration[name]
    raise pickle.UnpicklingError(f"it asks {enumeration!r} for {name!r}")


def refuse_far_places(content: bytes) -> None:
    """Raises ValueError where a pickle keeps a value at a place beyond its length: Python would make a list of gigabytes up to there."""
    for opcode, place, position in pickletools.genops(content):
        if opcode.name in KEEPING and int(place or 0) > len(content):
            raise ValueError(f"at {position} it keeps a value at place {place}")


def refuse_code(folder: Path) -> None:
    """Raises CheckpointError where `folder` holds anything but tensors and plain data."""
    try:
        described = (folder / METADATA_FILE).read_bytes()
        refuse_far_places(described)
        metadata = MetadataUnpickler(io.BytesIO(described)).load()
        for index, stored in metadata.storage_data.items():
            if Path(stored.relative_path).name != stored.relative_path:
                raise ValueError(f"it names the file {stored.relative_path!r}, which is not in the folder")
            if type(metadata.state_dict_metadata[index.fqn]).__name__ == "BytesStorageMetadata":
                with (folder / stored.relative_path).open("rb") as stream:
                    stream.seek(stored.offset)
                    torch.load(io.BytesIO(stream.read(stored.length)), weights_only=True)
        if (folder / COMMON_FILE).exists():
            torch.load(folder / COMMON_FILE, weights_only=True)
    except Exception as error:  # a broken pickle may raise anything
        raise CheckpointError(f"{folder} cannot be loaded safely: {type(error).__name__}: {error}") from error
