"""What the tables of Qwen's vision-language models have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from loongforge_core.weights.config_keys import Ignored
from loongforge_core.weights.table import Table

__all__ = ["NAMES_IN_MEMORY", "SLOTS", "TOKEN_IDS", "UNREAD_TOKENS", "VIDEO_FILES", "part", "vision"]

SLOTS = ("image_encoder", "image_projector", "foundation")

NAMES_IN_MEMORY = {"model.visual.": "visual.", "model.language_model.": "model."}
"""Of the models whose published folders name the language model's tensors as if it were alone."""

TOKEN_IDS = {"vision_start_token_id": "vision_start_token", "vision_end_token_id": "vision_end_token"}

VIDEO_FILES = {"video": "video_preprocessor_config.json"}

UNREAD_TOKENS = Ignored(("vision_token_id",), "of a token that no processor writes")


def part(table: Table, *, theirs: str, ours: str, section: str) -> Table:
    """A component's table as a part of the whole's, whose section of config.json has a type of its own."""
    return replace(table, model_type="").under(theirs=theirs, ours=ours, section=section)


def vision(tables: Mapping[str, Table], prefix: str) -> tuple[Table, Table]:
    """Encoder and projector, which are one module on disk. What lies beside an encoder in a whole model's folder is no longer unread."""
    encoder = replace(tables["image_encoder"], aliases={}, ignored={})
    return (
        part(encoder, theirs=prefix, ours="image_encoder", section="vision_config"),
        part(tables["image_projector"], theirs=prefix, ours="image_projector", section="vision_config"),
    )
