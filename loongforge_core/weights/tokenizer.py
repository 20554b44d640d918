"""The tokenizer of an export: its files, copied as they are where they have every token that the format needs."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from loongforge_core.errors import WeightsError
from loongforge_core.weights.folder import read_json, write_json

__all__ = ["TOKENIZER_FILES", "TokenizerFiles"]

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
"""What a tokenizer folder may consist of."""


class TokenizerFiles:
    """A Hugging Face tokenizer folder, to be written beside a model's weights."""

    def __init__(self, folder: Path, stop_token_ids: Collection[int] = ()) -> None:
        """`stop_token_ids` end an answer, beside the tokenizer's own end of sequence."""
        from transformers import AutoTokenizer

        self.folder = folder
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # damaged files raise anything, `Exception` itself included
            raise WeightsError(f"{folder}: cannot load a Hugging Face tokenizer from here: {error}") from error
        self.stop_token_ids = sorted({*stop_token_ids, self.tokenizer.eos_token_id} - {None})

    def write(self, target: Path, tokens: Sequence[str], *, vocab_size: int | None = None) -> None:
        """Copies the files. `tokens` that the tokenizer lacks are added, which needs rows in the embedding table for their ids."""
        missing = sorted(set(tokens) - self.tokenizer.get_vocab().keys())
        if not missing:
            for name in TOKENIZER_FILES:
                if (self.folder / name).is_file():
                    shutil.copyfile(self.folder / name, target / name)
            return
        from tokenizers import AddedToken

        self.tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
        beyond = [token for token in missing if vocab_size is not None and self.token_id(token) >= vocab_size]
        if beyond:
            raise WeightsError(
                f"{self.folder}: the tokenizer has no token {', '.join(map(repr, beyond))}, and the embedding table's {vocab_size} rows "
                f"are too few to add it (id {self.token_id(beyond[0])}); add it to the tokenizer, or enlarge vocab_size"
            )
        self.tokenizer.save_pretrained(target)

    def write_names(self, target: Path, names: Mapping[str, str]) -> None:
        """Says in the files in `target` which token goes by each of these names, where the tokenizer has it from nobody yet."""
        new = {name: token for name, token in names.items() if getattr(self.tokenizer, name, None) != token}
        if not new:
            return
        file = target / "tokenizer_config.json"
        tree = read_json(file) if file.is_file() else {}
        known = tree.get("extra_special_tokens") or {}
        # Version 5 of transformers has a list there, and names at the top; before, both were one mapping, which it reads too.
        write_json(file, {**tree, **(new if isinstance(known, list) else {"extra_special_tokens": {**known, **new}})})

    def token_id(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))

    def generation_config(self) -> dict[str, Any]:
        """Greedy decoding, as `loongforge generate` does it."""
        stop = self.stop_token_ids
        ids = {
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": stop[0] if len(stop) == 1 else stop or None,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        return {"do_sample": False, **{name: value for name, value in ids.items() if value is not None}}
