"""Qwen2.5-VL on disk: `Qwen2_5_VLForConditionalGeneration`, made of its components' tables.

Tensors are named as in published folders: the language model's as if it were alone, the vision tower's under `visual.`. transformers also
reads the names that its modules have in memory, and so does this table. The text's keys are in a section of config.json, which published
folders do not have yet: theirs are at the top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from loongforge_llm.qwen2.config import Qwen2Config
from loongforge_projectors.patch_merger.config import PatchMergerConfig
from loongforge_vit.qwen2_5_vl.config import Qwen25VlConfig

from loongforge_core.component import ComponentConfig
from loongforge_core.weights.config_keys import GENERIC_KEYS, Constant, Given, Ignored, Key
from loongforge_core.weights.table import ProcessorFiles, Table, combine
from loongforge_models.config_keys import EarlierAtTop, TypeName, axes_key, tied_key, with_defaults
from loongforge_models.qwen2_5_vl.config import TOKENS_PER_SECOND
from loongforge_models.qwen_vl.weights import NAMES_IN_MEMORY, SLOTS, TOKEN_IDS, UNREAD_TOKENS, VIDEO_FILES, part, vision

__all__ = ["table"]

TEXT_DEFAULTS = {
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-5,
    "rope_parameters.rope_theta": 1e6,
}

TOKENS = ("image", "video", "vision", "vision_start", "vision_end")
"""Whose ids folders of some versions of transformers have in the text's section too."""


@dataclass(frozen=True)
class EitherTied(Key):
    """The output layer is the embedding table where either the whole model or its text part says so; an export says it once."""

    def spelled(self, given: Given) -> Mapping[str, Any]:
        return {self.theirs: any(given.get(name, False) for name in self.claims())}


def table(configs: Mapping[str, ComponentConfig], tables: Mapping[str, Table]) -> Table | None:
    """None where `Qwen2_5_VLForConditionalGeneration` has no room for the mix."""
    if not is_qwen2_5_vl(configs):
        return None
    foundation = tables["foundation"]
    tied, axes = tied_key(False, ("text_config.tie_word_embeddings",), key=EitherTied), axes_key("section", [16, 24, 24])
    keys = [key.under("text_config", "foundation") for key in with_defaults(foundation.keys, TEXT_DEFAULTS)]
    text = [key for key in keys if not {tied.also[0], axes.theirs} & set(key.claims())]
    return combine(
        (*vision(tables, "visual."), part(replace(foundation, keys=()), theirs="", ours="foundation", section="text_config")),
        keys=(
            EarlierAtTop("text_config", (*text, axes, TypeName("text_config.model_type", "qwen2_5_vl_text"))),
            tied,
            TypeName("vision_config.model_type", "qwen2_5_vl_vision", earlier="qwen2_5_vl"),
            Constant("vision_config.tokens_per_second", TOKENS_PER_SECOND, 4),
            UNREAD_TOKENS,
            Ignored(tuple(f"text_config.{name}_token_id" for name in TOKENS), "they are those at the top, or null"),
            GENERIC_KEYS,
        ),
        aliases=NAMES_IN_MEMORY,
        model_type="qwen2_5_vl",
        architectures=("Qwen2_5_VLForConditionalGeneration",),
        placeholder_ids={"image_token_id": "image", "video_token_id": "video"},
        token_ids=TOKEN_IDS,
        processor=ProcessorFiles({"processor_class": "Qwen2_5_VLProcessor"}, slot="image_encoder", more=VIDEO_FILES),
        generates=True,
    )


def is_qwen2_5_vl(configs: Mapping[str, ComponentConfig]) -> bool:
    if set(configs) != set(SLOTS):
        return False
    encoder, projector, foundation = (configs[name] for name in SLOTS)
    return (
        isinstance(encoder, Qwen25VlConfig)
        and isinstance(projector, PatchMergerConfig)
        and projector.normalization == "RMSNorm"
        and (projector.activation, projector.layernorm_epsilon) == ("gelu", encoder.layernorm_epsilon)
        and projector.spatial_merge_size == encoder.spatial_merge_size
        and isinstance(foundation, Qwen2Config)
        and foundation.mrope_section is not None
        and not foundation.mrope_interleaved
    )
