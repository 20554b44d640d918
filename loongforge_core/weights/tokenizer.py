"""The tokenizer of an export: its files, copied as they are where they have every token that the format needs."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from loongforge_core.errors import WeightsError

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
        except (OSError, ValueError, KeyError) as error:
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
