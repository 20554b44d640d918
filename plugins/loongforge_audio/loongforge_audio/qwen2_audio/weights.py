"""Qwen2-Audio's encoder on disk: the part of a published `Qwen2AudioForConditionalGeneration` under `audio_tower.`, or
`Qwen2AudioEncoder` alone; both are read, the latter is written.
"""

from __future__ import annotations

from loongforge_audio.qwen2_audio.config import Qwen2AudioConfig
from loongforge_audio.whisper.weights import CARRIED, encoder_keys, rules
from loongforge_core.weights.table import Table

__all__ = ["table"]


def table(config: Qwen2AudioConfig) -> Table:
    return Table(
        rules=rules(config),
        keys=encoder_keys(layers=32, width=1280, ffn=5120, heads=20, mel_bins=128),
        model_type="qwen2_audio_encoder",
        architectures=("Qwen2AudioEncoder",),
        config_at={"qwen2_audio": "audio_config"},
        aliases={"audio_tower.": "", "model.audio_tower.": ""},
        ignored={
            "*multi_modal_projector.*": "the projector of a whole Qwen2-Audio",
            "*language_model.*": "the language model of a whole Qwen2-Audio",
            "*lm_head.weight": "the language model's output",
        },
        carried=CARRIED,
    )
