"""Qwen2-Audio on disk: `Qwen2AudioForConditionalGeneration`, made of its components' tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from loongforge_audio.qwen2_audio.config import Qwen2AudioConfig
from loongforge_llm.qwen2.config import Qwen2Config
from loongforge_projectors.linear.config import LinearConfig

from loongforge_core.component import ComponentConfig
from loongforge_core.weights.config_keys import GENERIC_KEYS, Ignored
from loongforge_core.weights.table import ProcessorFiles, Table, combine
from loongforge_models.names_in_memory import names_in_memory

__all__ = ["table"]

SLOTS = ("audio_encoder", "audio_projector", "foundation")


def table(configs: Mapping[str, ComponentConfig], tables: Mapping[str, Table]) -> Table | None:
    """None where `Qwen2AudioForConditionalGeneration` has no room for the mix."""
    if not is_qwen2_audio(configs):
        return None
    encoder, projector, foundation = (tables[name] for name in SLOTS)
    return combine(
        (
            replace(encoder, aliases={}, ignored={}).under(theirs="audio_tower.", ours="audio_encoder", section="audio_config"),
            projector.under(theirs="multi_modal_projector.", ours="audio_projector", section=""),
            foundation.under(theirs="language_model.", ours="foundation", section="text_config"),
        ),
        keys=(
            Ignored(("tie_word_embeddings", "text_config.tie_word_embeddings"), "this class ties nothing"),
            Ignored(("ignore_index", "vocab_size"), "written by earlier versions of transformers, and read by none"),
            GENERIC_KEYS,
        ),
        aliases=names_in_memory("audio_tower"),
        model_type="qwen2_audio",
        architectures=("Qwen2AudioForConditionalGeneration",),
        placeholder_ids={"audio_token_index": "audio"},
        processor=ProcessorFiles({"processor_class": "Qwen2AudioProcessor"}, slot="audio_encoder", token_key="audio_token"),
        generates=True,
    )


def is_qwen2_audio(configs: Mapping[str, ComponentConfig]) -> bool:
    if set(configs) != set(SLOTS):
        return False
    encoder, projector, foundation = (configs[name] for name in SLOTS)
    return (
        isinstance(encoder, Qwen2AudioConfig)
        and isinstance(projector, LinearConfig)
        and projector.add_bias_linear
        and isinstance(foundation, Qwen2Config)
        and foundation.mrope_section is None
        and foundation.untie_embeddings_and_output_weights
    )
