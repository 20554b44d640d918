"""InternVL on disk, in two formats: transformers' `InternVLForConditionalGeneration` and OpenGVLab's `InternVLChatModel`.

The first is what we write where it has room for the mix; InternLM2, which transformers does not have, is only in the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from loongforge_llm.internlm2.config import InternLM2Config
from loongforge_projectors.intern_mlp.config import InternMlpConfig
from loongforge_vit.intern_vit.config import InternVitConfig

from loongforge_core.component import ComponentConfig
from loongforge_core.weights.config_keys import GENERIC_KEYS, ConfigKey, Constant, Derived, Ignored, Key, Written
from loongforge_core.weights.table import ProcessorFiles, Table, combine
from loongforge_models.config_keys import TiedAtTop, tied_key
from loongforge_models.names_in_memory import names_in_memory

__all__ = ["table"]

SLOTS = ("image_encoder", "image_projector", "foundation")


TOKEN_NAMES = {
    "start_image_token": "start_image_token",
    "end_image_token": "end_image_token",
    "context_image_token": "image_token",
    "video_token": "video_token",
}
"""OpenGVLab's tokenizers have these tokens, but for the last one, and no names for them."""

OWN_CODE = {
    "auto_map.AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
    "auto_map.AutoModel": "modeling_internvl_chat.InternVLChatModel",
    "auto_map.AutoModelForCausalLM": "modeling_internvl_chat.InternVLChatModel",
    "template": "internvl2_5",
    "vision_config.architectures": ["InternVisionModel"],
}
"""What OpenGVLab's code, to be laid beside the weights, cannot do without, and we make nothing of."""


def table(configs: Mapping[str, ComponentConfig], tables: Mapping[str, Table]) -> Table | None:
    """None where neither format has room for the mix."""
    if not is_intern_vl(configs, tables):
        return None
    opengvlab = opengvlab_table(configs, tables)
    if isinstance(configs["foundation"], InternLM2Config):
        return opengvlab
    return replace(transformers_table(configs, tables), alternatives={"OpenGVLab": opengvlab})


def is_intern_vl(configs: Mapping[str, ComponentConfig], tables: Mapping[str, Table]) -> bool:
    if set(configs) != set(SLOTS):
        return False
    encoder, projector, foundation = (configs[name] for name in SLOTS)
    return (
        isinstance(encoder, InternVitConfig)
        and encoder.feature_layer == -1
        and isinstance(projector, InternMlpConfig)
        and projector.normalization == "LayerNorm"
        and projector.layernorm_epsilon == 1e-5
        and projector.ffn_hidden_size in (None, projector.hidden_size)
        and getattr(foundation, "mrope_section", None) is None
        and any(name.endswith("ForCausalLM") for name in tables["foundation"].architectures)
    )


def transformers_table(configs: Mapping[str, ComponentConfig], tables: Mapping[str, Table]) -> Table:
    encoder, projector, foundation = (tables[name] for name in SLOTS)
    vision = configs["image_encoder"]
    assert isinstance(vision, InternVitConfig)
    return combine(
        (
            encoder.under(theirs="vision_tower.", ours="image_encoder", section="vision_config"),
            projector.under(theirs="multi_modal_projector.", ours="image_projector", section=""),
            foundation.under(theirs="language_model.", ours="foundation", section="text_config"),
        ),
        keys=(
            tied_key(True, ("text_config.tie_word_embeddings",), key=TiedAtTop),
            Constant("vision_feature_layer", -1, -1),
            Constant("vision_feature_select_strategy", "default", "default"),
            Written("image_seq_length", tokens_per_tile, "image_encoder"),
            how_run("text_config"),
            GENERIC_KEYS,
        ),
        aliases=names_in_memory("vision_tower"),
        model_type="internvl",
        architectures=("InternVLForConditionalGeneration",),
        placeholder_ids={"image_token_id": "image"},
        processor=ProcessorFiles(
            {"processor_class": "InternVLProcessor", "image_seq_length": tokens_per_tile(vision)},
            slot="image_encoder",
            tokenizer_names=TOKEN_NAMES,
        ),
        generates=True,
    )


def opengvlab_table(configs: Mapping[str, ComponentConfig], tables: Mapping[str, Table]) -> Table:
    encoder, projector, foundation = (tables[name].alternatives.get("OpenGVLab", tables[name]) for name in SLOTS)
    return combine(
        (
            encoder.under(theirs="vision_model.", ours="image_encoder", section="vision_config"),
            projector.under(theirs="mlp1.", ours="image_projector", section=""),
            foundation.under(theirs="language_model.", ours="foundation", section="llm_config"),
        ),
        keys=(
            Constant("select_layer", -1, -1),
            Constant("ps_version", "v2", "v1"),
            Key("force_image_size", "image_size", section="image_encoder"),
            Key("min_dynamic_patch", "min_tiles", 1, section="image_encoder"),
            Key("max_dynamic_patch", "max_tiles", 6, section="image_encoder"),
            Key("use_thumbnail", "use_thumbnail", False, section="image_encoder"),
            Derived("dynamic_image_size", lambda config: config.max_tiles > 1, "image_encoder"),
            Ignored(("tie_word_embeddings",), "of the language model, whose own section says so"),
            Ignored(("use_backbone_lora", "use_llm_lora"), "how the published weights came about"),
            Ignored(("system_message", "pad2square"), "how its own code writes a prompt"),
            *(Written(name, lambda _, value=value: value) for name, value in OWN_CODE.items()),
            Ignored(("auto_map.*",), "where its own code is"),
            Written("llm_config.architectures", lambda _: list(tables["foundation"].architectures)),
            how_run("llm_config"),
            # Those of the parts give way to the keys above that claim some of the same.
            *(GENERIC_KEYS.under(section, "") for section in ("vision_config", "llm_config")),
            Ignored(("hidden_size", "output_attentions", "_commit_hash"), "written by versions of transformers, and read by none"),
            GENERIC_KEYS,
        ),
        model_type="internvl_chat",
        architectures=("InternVLChatModel",),
        generates=True,
    )


def how_run(section: str) -> ConfigKey:
    """What OpenGVLab's folders, those for transformers too, say of the language model beside what it is."""
    training = tuple(f"{section}.{name}" for name in ("debug", "ep_size", "micro_forward", "skip_checkpoint", "use_deepep"))
    return Ignored((*training, "*.attn_implementation", "*._attn_implementation_autoset"), "how its own code runs")


def tokens_per_tile(config: InternVitConfig) -> int:
    """Behind the projector."""
    return (config.image_size // config.patch_size // 2) ** 2
