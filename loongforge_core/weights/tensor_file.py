"""One safetensors file: the header's length in eight bytes, the header (JSON: dtype, shape and place by name), the tensors' bytes.

Read and written here a block at a time. The safetensors package maps whole files, whose pages then count as this process's memory until
the file is closed, and writes only what is in memory at once; it still checks every file that is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loongforge_core.component import Shape
from loongforge_core.errors import WeightsError
from loongforge_core.strict_json import load_json

__all__ = ["StoredTensor", "TensorType", "TensorWriter", "stored_tensors"]

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}
"""In the package's order: it writes the last ones first, and those of one dtype by name."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}
BLOCK_BYTES = 4 * 1024**2
"""Small enough to stay in a core's cache between being read and being copied: blocks of 64 MB were a quarter slower."""


@dataclass(frozen=True)
class TensorType:
    """What is known of a tensor before it is there."""

    dtype: torch.dtype
    shape: Shape

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor(TensorType):
    """A tensor in a file."""

    file: TensorFile
    start: int
    """Its first byte in the file."""

    def rows(self, first: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Rows of the first axis, a block at a time, each behind the number of its first row."""
        per_row = torch.Size(self.shape[1:]).numel() * self.dtype.itemsize
        step = max(1, BLOCK_BYTES // max(1, per_row))
        for begin in range(first, stop, step):
            block = torch.empty((min(step, stop - begin), *self.shape[1:]), dtype=self.dtype)
            self.file.read_into(block, self.start + begin * per_row)
            yield begin, block

    def copy_rows(self, first: int, columns: tuple[slice, ...], into: Tensor) -> None:
        """Fills `into` with as many rows, of which it wants these columns. Converts to its dtype."""
        if into.is_contiguous() and into.device.type == "cpu" and (into.dtype, into.shape[1:]) == (self.dtype, self.shape[1:]):
            self.file.read_into(into, self.start + first * (into.nbytes // max(1, len(into))))
            return
        for begin, block in self.rows(first, first + len(into)):
            into[begin - first : begin - first + len(block)].copy_(block[(slice(None), *columns)])

    def whole(self) -> Tensor:
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.file.read_into(tensor, self.start)
        return tensor

    def equals(self, other: StoredTensor) -> bool:
        """Whether both hold the same values in the same dtype, compared a block at a time."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        if not self.shape:
            return torch.equal(self.whole(), other.whole())
        rows = 0, self.shape[0]
        return all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(self.rows(*rows), other.rows(*rows), strict=True))


class TensorFile:
    """A file that is open as long as one of its tensors is known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("rb", buffering=0)

    def read_into(self, tensor: Tensor, start: int) -> None:
        """Fills a contiguous tensor with the bytes from `start` on."""
        target = as_bytes(tensor)
        while len(target):
            count = os.preadv(self.file.fileno(), [target], start)
            if not count:
                raise WeightsError(f"{self.path} has become shorter while it was read")
            target, start = target[count:], start + count

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """What a file holds, by name. Raises WeightsError where it is not sound."""
    try:
        with safe_open(path, "pt"):
            pass  # every tensor's place is within the file, and its size is its shape's
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error
    source = TensorFile(path)
    length = int.from_bytes(source.file.read(8), "little")
    header = load_json(source.file.read(length).decode())
    header.pop("__metadata__", None)
    for name, about in header.items():
        if about["dtype"] not in DTYPES:
            raise WeightsError(f"{path}: {name} has the dtype {about['dtype']}; expected one of {', '.join(DTYPES)}")
    return {
        name: StoredTensor(DTYPES[about["dtype"]], tuple(about["shape"]), source, 8 + length + about["data_offsets"][0])
        for name, about in header.items()
    }


class TensorWriter:
    """Writes a file whose tensors are known by name and type, in whatever order they come; the same bytes as safetensors' `save_file`."""

    def __init__(self, path: Path, types: Mapping[str, TensorType]) -> None:
        order = sorted(types, key=lambda name: (-list(DTYPES).index(NAMES[types[name].dtype]), name))
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self.starts: dict[str, int] = {}
        end = 0
        for name in order:
            self.starts[name], end = end, end + types[name].nbytes
            header[name] = {"dtype": NAMES[types[name].dtype], "shape": types[name].shape, "data_offsets": [self.starts[name], end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self.types, self.path, self.begin = types, path, 8 + len(text)
        self.left = set(types)
        self.file = path.open("wb", buffering=0)
        self.file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, tensor: Tensor) -> None:
        given = TensorType(tensor.dtype, tuple(tensor.shape))
        assert given == self.types[name], f"{name} is {given}, announced as {self.types[name]}"
        self.file.seek(self.begin + self.starts[name])
        source = as_bytes(tensor.detach().cpu().contiguous())
        while len(source):
            source = source[self.file.write(source) :]
        self.left.discard(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
        assert kind is not None or not self.left, f"{self.path}: never written: {', '.join(sorted(self.left))}"


def as_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.view(-1).view(torch.uint8).numpy().data
