"""A small Qwen2, saved by transformers, and ours beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers
from loongforge_llm.qwen2.config import Qwen2Config
from safetensors.torch import load_file, save_file
from torch import Tensor

from loongforge_core.testing.reference import Ours, ours, redraw

SIZES = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "num_query_groups": 2, "vocab_size": 99}
THEIRS = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}


@dataclass(frozen=True)
class SavedFolder:
    """What transformers saved, to be spoilt."""

    path: Path

    @property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path / "model.safetensors")

    def change_tensors(self, change: Callable[[dict[str, Tensor]], Any]) -> None:
        tensors = self.tensors
        change(tensors)
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, self.path / "model.safetensors")

    def change_config(self, **changes: Any) -> None:
        tree = json.loads((self.path / "config.json").read_text())
        (self.path / "config.json").write_text(json.dumps({**tree, **changes}))


def save(folder: Path, *, tied: bool) -> SavedFolder:
    reference = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**THEIRS, tie_word_embeddings=tied))
    redraw(reference)
    reference.save_pretrained(folder)
    return SavedFolder(folder)


@pytest.fixture
def folder(tmp_path: Path) -> SavedFolder:
    return save(tmp_path / "hf", tied=False)


@pytest.fixture
def tied_folder(tmp_path: Path) -> SavedFolder:
    return save(tmp_path / "hf", tied=True)


@pytest.fixture
def qwen2() -> Iterator[Ours]:
    """Its vocabulary of 99 padded to 104 rows."""
    with ours(Qwen2Config(**SIZES), padded_vocab_size=104) as built:
        yield built


@pytest.fixture
def tied_qwen2() -> Iterator[Ours]:
    with ours(Qwen2Config(**SIZES, untie_embeddings_and_output_weights=False)) as built:
        yield built
