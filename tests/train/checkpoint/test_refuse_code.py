"""Nothing in a checkpoint is executed."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import dist_checkpointing
from saved_runs import Saved, record_of, trainer_of, without_digests
from torch.distributed.checkpoint.filesystem import SerializationFormat

from loongforge_core.config.composition import Composition
from loongforge_core.errors import CheckpointError
from loongforge_core.parallel.repairs import writing_in_this_process
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint.load import load_checkpoint
from loongforge_core.train.checkpoint.record import (
    RECORD_FILE,
)
from loongforge_core.train.checkpoint.refuse_code import MetadataUnpickler
from loongforge_core.train.checkpoint.state import state_of

Compose = Callable[..., Composition]

pytestmark = pytest.mark.usefixtures("one_process")


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("where", [".metadata", "common.pt", "an entry"])
def test_code_in_a_checkpoint_is_refused(saved: Saved, registry: Registry, tmp_path: Path, where: str) -> None:
    mark = tmp_path / "executed"
    without_digests(saved.folder)
    if where == ".metadata":
        (saved.folder / where).write_bytes(pickle.dumps(Payload(mark)))
    elif where == "common.pt":
        torch.save({"a": Payload(mark)}, saved.folder / where)
    else:
        state = state_of(saved.trainer)
        state["x"] = dist_checkpointing.ShardedObject("x", Payload(mark), (1,), (0,))
        shutil.rmtree(saved.folder)
        saved.folder.mkdir()
        with writing_in_this_process():
            dist_checkpointing.save(state, str(saved.folder))
        (saved.folder / RECORD_FILE).write_text(record_of(saved.composition, saved.data, 3).to_json())
    with pytest.raises(CheckpointError, match="cannot be loaded safely"):
        load_checkpoint(saved.folder, trainer_of(saved.composition, registry))
    assert not mark.exists()


def test_a_value_kept_far_away_takes_no_memory(saved: Saved, registry: Registry) -> None:
    """One flipped bit makes LONG_BINPUT, "r", of REDUCE, "R": what follows is a place, and Python would make a list up to it."""
    without_digests(saved.folder)
    described = saved.folder / ".metadata"
    content = bytearray(described.read_bytes())
    operations = [at for opcode, _, at in pickletools.genops(bytes(content)) if opcode.name == "REDUCE"]
    place, flipped = max((*struct.unpack("<I", content[at + 1 : at + 5]), at) for at in operations)
    assert place > 10**9
    content[flipped] ^= ord("r") ^ ord("R")
    described.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"cannot be loaded safely: ValueError: at {flipped} it keeps a value at place {place}"):
        load_checkpoint(saved.folder, trainer_of(saved.composition, registry))


class AskedFor:
    """Pickled as early releases of Python 3.11 pickle the members of enumerations: by `getattr`."""

    def __init__(self, owner: Any, name: str) -> None:
        self.asked = owner, name

    def __reduce__(self) -> Any:
        return getattr, self.asked


def test_a_member_of_an_enumeration_may_be_asked_for_and_nothing_else() -> None:
    read = MetadataUnpickler(io.BytesIO(pickle.dumps(AskedFor(SerializationFormat, "SAFETENSORS"))))  # torch's own
    assert read.load() is SerializationFormat.SAFETENSORS
    for owner, name in ((SerializationFormat, "__class__"), (torch.Size, "count")):
        with pytest.raises(pickle.UnpicklingError, match=f"it asks .* for '{name}'"):
            MetadataUnpickler(io.BytesIO(pickle.dumps(AskedFor(owner, name)))).load()
