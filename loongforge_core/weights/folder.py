"""A folder of safetensors, read and written in the layout that `save_pretrained` uses: one file, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from loongforge_core.errors import WeightsError
from loongforge_core.strict_json import load_json
from loongforge_core.weights.tensor_file import StoredTensor, TensorType, TensorWriter, stored_tensors

__all__ = ["Chunk", "WeightsFolder", "read_json", "write_json", "write_tensors"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises WeightsError naming the file."""
    try:
        tree = load_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(tree, dict):
        raise WeightsError(f"{path} holds a {type(tree).__name__}, expected an object")
    return tree


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


class WeightsFolder:
    """Names, types and places are known at once; of a tensor, the rows that are asked for are read when they are."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise WeightsError(f"{path} is not a folder; expected a Hugging Face folder with config.json and safetensors")
        self.path = path
        self.tensors: dict[str, StoredTensor] = {}
        for file, names in self._files().items():
            self._add(file, names)

    def _files(self) -> dict[Path, set[str] | None]:
        """Files of tensors, each with the names that the index expects in it (None: whatever is there)."""
        if (self.path / INDEX).is_file():
            weight_map = read_json(self.path / INDEX).get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
                raise WeightsError(f"{self.path / INDEX} has no weight_map from tensor names to files")
            files: dict[Path, set[str] | None] = {}
            for file in sorted(set(weight_map.values())):
                if Path(file).name != file:
                    raise WeightsError(f"{self.path / INDEX} names the file {file!r}, which is not in the folder")
                files[self.path / file] = {name for name, where in weight_map.items() if where == file}
            return files
        if (self.path / SINGLE).is_file():
            return {self.path / SINGLE: None}
        if pickles := sorted(file.name for pattern in PICKLES for file in self.path.glob(pattern)):
            raise WeightsError(
                f"{self.path} has weights only as pickles ({', '.join(pickles)}), which can run code when they are read; "
                f"convert them to safetensors first"
            )
        raise WeightsError(f"{self.path} has no weights: neither {SINGLE} nor {INDEX}")

    def _add(self, file: Path, expected: set[str] | None) -> None:
        if not file.exists():
            raise WeightsError(f"{file} does not exist, but {INDEX} names it")
        found = stored_tensors(file)
        if expected is not None and (wrong := expected ^ found.keys()):
            raise WeightsError(f"{file} and {INDEX} disagree about {', '.join(sorted(wrong))}")
        self.tensors.update(found)

    def read(self, name: str) -> Tensor:
        return self.tensors[name].whole()


@dataclass(frozen=True)
class Chunk:
    """Tensors that are made together: no more than these are ever in memory."""

    types: Mapping[str, TensorType]
    make: Callable[[], Iterable[tuple[str, Tensor]]]

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self.types.values())


def write_tensors(folder: Path, chunks: Sequence[Chunk], *, max_shard_bytes: int) -> None:
    """Writes every chunk's tensors, in one file if they fit into one shard."""
    shards = plan_shards(chunks, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        types = {name: each for chunk in shard for name, each in chunk.types.items()}
        with TensorWriter(folder / file, types) as writer:
            for name, tensor in (made for chunk in shard for made in chunk.make()):
                writer.write(name, tensor)
        weight_map.update(dict.fromkeys(types, file))
    if len(shards) > 1:
        total = sum(chunk.nbytes for chunk in chunks)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def plan_shards(chunks: Sequence[Chunk], max_shard_bytes: int) -> list[list[Chunk]]:
    """In order, each shard as full as it gets; a chunk larger than a shard has one of its own."""
    shards: list[list[Chunk]] = [[]]
    room = max_shard_bytes
    for chunk in chunks:
        if chunk.nbytes > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(chunk)
        room -= chunk.nbytes
    return shards
