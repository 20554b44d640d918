"""LLaVA on disk: `LlavaForConditionalGeneration`, made of its components' tables.

Tensors are named as in published folders. transformers also reads the names that its modules have in memory, and so does this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loongforge_llm.internlm2.config import InternLM2Config
from loongforge_projectors.mlp.config import MlpConfig
from loongforge_vit.clip.config import ClipConfig
from loongforge_vit.siglip.config import SiglipConfig

from loongforge_core.component import ComponentConfig
from loongforge_core.weights.config_keys import GENERIC_KEYS, ConfigKey, Constant, Given, Ignored, Key, Written
from loongforge_core.weights.table import ProcessorFiles, Table, combine
from loongforge_models.names_in_memory import names_in_memory

__all__ = ["table"]

SLOTS = ("image_encoder", "image_projector", "foundation")

STRATEGIES = {"default": "dropped", "full": "kept"}
"""`vision_feature_select_strategy`: what becomes of the first feature, a class token's. SigLIP has none, and all its features are taken."""


@dataclass(frozen=True)
class TiedKey(Key):
    """Output weights are the embeddings where either the whole model or its text part says so."""

    def spelled(self, given: Given) -> Mapping[str, Any]:
        return {self.theirs: any(given.get(name, False) for name in self.claims())}

    def write(self, config: Any) -> Mapping[str, Any]:
        return dict.fromkeys(self.claims(), self.expected(config))


def table(configs: Mapping[str, ComponentConfig], tables: Mapping[str, Table]) -> Table | None:
    """None where `LlavaForConditionalGeneration` has no room for the mix."""
    if not is_llava(configs, tables):
        return None
    encoder, projector, foundation = (tables[name] for name in SLOTS)
    vision = configs["image_encoder"]
    assert isinstance(vision, SiglipConfig | ClipConfig)
    return combine(
        (
            encoder.under(theirs="vision_tower.", ours="image_encoder", section="vision_config"),
            projector.under(theirs="multi_modal_projector.", ours="image_projector", section=""),
            foundation.under(theirs="language_model.", ours="foundation", section="text_config"),
        ),
        keys=(
            Key("vision_feature_layer", "feature_layer", -2, section="image_encoder"),
            strategy_key(vision),
            TiedKey(
                "tie_word_embeddings",
                "untie_embeddings_and_output_weights",
                also=("text_config.tie_word_embeddings",),
                values={True: False, False: True},
                section="foundation",
            ),
            Written("image_seq_length", lambda config: config.num_tokens(config.fixed_item_size), "image_encoder"),
            Ignored(("image_token_index", "image_token_id"), "our placeholder is outside the vocabulary; an export writes the tokenizer's"),
            Ignored(("ignore_index", "vocab_size"), "written by earlier versions of transformers, and read by none"),
            GENERIC_KEYS,
        ),
        aliases=names_in_memory("vision_tower"),
        model_type="llava",
        architectures=("LlavaForConditionalGeneration",),
        placeholder_ids={"image_token_index": "image"},
        processor=ProcessorFiles(
            config={
                "processor_class": "LlavaProcessor",
                "patch_size": vision.patch_size,
                **strategy_key(vision).write(configs),
                "num_additional_image_tokens": int(isinstance(vision, ClipConfig)),
            },
            token_key="image_token",
            slot="image_encoder",
        ),
        generates=True,
    )


def strategy_key(vision: SiglipConfig | ClipConfig) -> ConfigKey:
    name = "vision_feature_select_strategy"
    if isinstance(vision, SiglipConfig):
        return Constant(name, "full", "default")
    return Key(name, "class_token", "default", values=STRATEGIES, section="image_encoder")


def is_llava(configs: Mapping[str, ComponentConfig], tables: Mapping[str, Table]) -> bool:
    if set(configs) != set(SLOTS):
        return False
    encoder, projector = configs["image_encoder"], configs["image_projector"]
    return (
        (isinstance(encoder, ClipConfig) or (isinstance(encoder, SiglipConfig) and not encoder.final_norm))
        and isinstance(projector, MlpConfig)
        and projector.ffn_hidden_size in (None, projector.hidden_size)
        and any(name.endswith("ForCausalLM") for name in tables["foundation"].architectures)
        and not isinstance(configs["foundation"], InternLM2Config)  # which transformers does not have
    )
