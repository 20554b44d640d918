"""Qwen3-VL on disk: `Qwen3VLForConditionalGeneration` and `Qwen3VLMoeForConditionalGeneration`, made of their components' tables.

Experts lie in stacks, see `experts.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from loongforge_llm.qwen3.config import Qwen3Config
from loongforge_llm.qwen3_moe.config import Qwen3MoeConfig
from loongforge_projectors.patch_merger.config import PatchMergerConfig
from loongforge_vit.qwen3_vl.config import Qwen3VlConfig

from loongforge_core.component import ComponentConfig
from loongforge_core.weights.config_keys import GENERIC_KEYS, Ignored, Unwritten
from loongforge_core.weights.table import ProcessorFiles, Table, combine
from loongforge_models.config_keys import TypeName, axes_key, tied_key, with_defaults
from loongforge_models.qwen3_vl.experts import with_stacked_experts
from loongforge_models.qwen_vl.weights import SLOTS, TOKEN_IDS, UNREAD_TOKENS, VIDEO_FILES, part, vision

__all__ = ["table"]

ELSEWHERE = ("use_sliding_window", "layer_types", "sliding_window", "norm_topk_prob")
"""Keys of Qwen3 alone that the text sections of these classes do not have, or do not look at."""


@dataclass(frozen=True)
class Variant:
    """One of the two classes."""

    model_type: str
    architecture: str
    text_defaults: Mapping[str, Any]


DENSE = Variant("qwen3_vl", "Qwen3VLForConditionalGeneration", {"rope_parameters.rope_theta": 5e5, "max_position_embeddings": 128000})
EXPERTS = Variant(
    "qwen3_vl_moe",
    "Qwen3VLMoeForConditionalGeneration",
    {
        **DENSE.text_defaults,
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
    },
)


def table(configs: Mapping[str, ComponentConfig], tables: Mapping[str, Table]) -> Table | None:
    """None where neither class has room for the mix."""
    if not is_qwen3_vl(configs):
        return None
    text = configs["foundation"]
    variant = EXPERTS if isinstance(text, Qwen3MoeConfig) else DENSE
    foundation = tables["foundation"].renamed({"model.": "model.language_model."})
    if isinstance(text, Qwen3MoeConfig):
        foundation = with_stacked_experts(foundation, text)
    keys = [key for key in with_defaults(foundation.keys, variant.text_defaults) if not set(ELSEWHERE) & set(key.claims())]
    return combine(
        (
            *vision(tables, "model.visual."),
            part(replace(foundation, keys=tuple(keys)), theirs="", ours="foundation", section="text_config"),
        ),
        keys=(
            tied_key(False),
            axes_key("section", [24, 20, 20]),
            axes_key("interleaved", True),
            Ignored(("text_config.tie_word_embeddings",), "these classes look at the top only"),
            TypeName("text_config.model_type", f"{variant.model_type}_text"),
            TypeName("vision_config.model_type", f"{variant.model_type}_vision", earlier=variant.model_type),
            *((Unwritten("text_config.norm_topk_prob", True, True),) if variant is EXPERTS else ()),
            UNREAD_TOKENS,
            GENERIC_KEYS,
        ),
        model_type=variant.model_type,
        architectures=(variant.architecture,),
        placeholder_ids={"image_token_id": "image", "video_token_id": "video"},
        token_ids=TOKEN_IDS,
        processor=ProcessorFiles({"processor_class": "Qwen3VLProcessor"}, slot="image_encoder", more=VIDEO_FILES),
        generates=True,
    )


def is_qwen3_vl(configs: Mapping[str, ComponentConfig]) -> bool:
    if set(configs) != set(SLOTS):
        return False
    encoder, projector, foundation = (configs[name] for name in SLOTS)
    return (
        isinstance(encoder, Qwen3VlConfig)
        and isinstance(projector, PatchMergerConfig)
        and projector.normalization == "LayerNorm"
        and (projector.activation, projector.layernorm_epsilon) == ("gelu", encoder.layernorm_epsilon)
        and projector.spatial_merge_size == encoder.spatial_merge_size
        and projector.num_levels == encoder.num_levels
        and (isinstance(foundation, Qwen3Config) or (isinstance(foundation, Qwen3MoeConfig) and foundation.weights_add_up))
        and foundation.mrope_section is not None
        and foundation.mrope_interleaved
    )
