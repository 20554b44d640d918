"""LLaVA-OneVision 1.5 on disk: `LLaVAOneVision1_5_ForConditionalGeneration`, made of its components' tables.

The class lies beside the weights and is none of transformers. Its source is in EvolvingLMMs-Lab/lmms-engine too, and a port in
NVIDIA-NeMo/Automodel. It was written for version 4 of transformers: the base of rotary positions stands alone, and the text's section says
whether the output layer is the embedding table. In the published 4B it is not, unlike in Qwen3 4B.

Left out: the format of the class that transformers itself is about to have (`llava_onevision1_5`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from loongforge_llm.qwen3.config import Qwen3Config
from loongforge_projectors.patch_merger.config import PatchMergerConfig
from loongforge_projectors.patch_merger.weights import QWEN2_VL_NAMES, merger_table
from loongforge_vit.rice_vit.config import RiceVitConfig

from loongforge_core.component import ComponentConfig
from loongforge_core.weights.config_keys import GENERIC_KEYS, ConfigKey, Ignored, Key, Unwritten, Written
from loongforge_core.weights.table import ProcessorFiles, Table, combine
from loongforge_models.config_keys import TypeName, with_defaults
from loongforge_models.qwen_vl.weights import NAMES_IN_MEMORY, SLOTS, TOKEN_IDS, VIDEO_FILES, part, vision

__all__ = ["table"]

NORM_EPSILON = 1e-5
"""Of the norms in the tower's blocks, whatever config.json says of its other norms."""

SAID = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
"""Every folder says these: each has its own copy of the class, and the copies do not assume the same."""


def table(configs: Mapping[str, ComponentConfig], tables: Mapping[str, Table]) -> Table | None:
    """None where `LLaVAOneVision1_5_ForConditionalGeneration` has no room for the mix."""
    projector = configs.get("image_projector")
    if not isinstance(projector, PatchMergerConfig) or not is_llava_ov_1_5(configs, projector):
        return None
    merger = merger_table(projector, QWEN2_VL_NAMES, width_key="text_hidden_size")
    foundation = replace(tables["foundation"], keys=text_keys(tables["foundation"]))
    return combine(
        (
            *vision({**tables, "image_projector": merger}, "visual."),
            part(foundation, theirs="", ours="foundation", section="text_config"),
        ),
        keys=(
            # The class looks at neither, but ports of it at the first, and the loss of transformers at the second.
            Written("tie_word_embeddings", lambda text: not text.untie_embeddings_and_output_weights, section="foundation"),
            Written("vocab_size", lambda text: text.vocab_size, section="foundation"),
            TypeName("text_config.model_type", "LLaVAOneVision1_5_text"),
            TypeName("vision_config.model_type", "rice_vit"),
            Ignored(("text_config.image_token_id", "text_config.video_token_id"), "they are those at the top, or null"),
            Ignored(("auto_map.*", "*_attn_implementation_autoset"), "how its own code runs"),
            GENERIC_KEYS,
        ),
        aliases=NAMES_IN_MEMORY,
        model_type="llavaonevision1_5",
        architectures=("LLaVAOneVision1_5_ForConditionalGeneration",),
        placeholder_ids={"image_token_id": "image", "video_token_id": "video"},
        token_ids=TOKEN_IDS,
        processor=ProcessorFiles({"processor_class": "Qwen2_5_VLProcessor"}, slot="image_encoder", more=VIDEO_FILES),
        generates=True,
    )


def text_keys(foundation: Table) -> tuple[ConfigKey, ...]:
    """Qwen3's, as version 4 of transformers spelled them."""
    replaced = ("rope_", "sliding_window")
    keys = with_defaults(foundation.keys, dict.fromkeys(SAID))
    return (
        *(key for key in keys if not any(name.startswith(replaced) for name in key.claims())),
        Key("rope_theta", "rotary_base", also=("rope_parameters.rope_theta",)),
        Unwritten("rope_parameters.rope_type", "default", "default"),
        # Given a window, the class lets layers slide even where use_sliding_window says that none does.
        Unwritten("sliding_window", None, None),
        Ignored(("max_window_layers",), "no effect without sliding_window"),
    )


def is_llava_ov_1_5(configs: Mapping[str, ComponentConfig], projector: PatchMergerConfig) -> bool:
    if set(configs) != set(SLOTS):
        return False
    encoder, foundation = configs["image_encoder"], configs["foundation"]
    return (
        isinstance(encoder, RiceVitConfig)
        and projector.normalization == "LayerNorm"
        and (projector.activation, projector.layernorm_epsilon, encoder.layernorm_epsilon) == ("gelu", NORM_EPSILON, NORM_EPSILON)
        and projector.spatial_merge_size == encoder.spatial_merge_size
        and isinstance(foundation, Qwen3Config)
        and foundation.rotary_scaling is None
    )
