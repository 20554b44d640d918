"""What this plugin adds to LoongForge."""

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="encoder",
            name="whisper",
            summary="Whisper's encoder: log-mel frames of thirty seconds, whatever the sound's own length; 50 tokens a second",
            modalities=("audio",),
            config="loongforge_audio.whisper.config:WhisperConfig",
            model="loongforge_audio.whisper.model:WhisperEncoder",
            weights="loongforge_audio.whisper.weights:table",
            processor="loongforge_audio.whisper.processor:WhisperProcessor",
            reference="transformers.models.whisper.modeling_whisper.WhisperEncoder",
            paper="arXiv:2212.04356",
            left_out="the decoder, dropout and layer drop, sounds that are not WAV files",
        ),
        ComponentSpec(
            kind="encoder",
            name="qwen2_audio",
            summary="Qwen2-Audio's encoder: Whisper's on sounds of any length up to thirty seconds, pooled in pairs; 25 tokens a second",
            modalities=("audio",),
            config="loongforge_audio.qwen2_audio.config:Qwen2AudioConfig",
            model="loongforge_audio.qwen2_audio.model:Qwen2AudioEncoder",
            weights="loongforge_audio.qwen2_audio.weights:table",
            processor="loongforge_audio.whisper.processor:WhisperProcessor",
            reference="transformers.Qwen2AudioEncoder",
            paper="arXiv:2407.10759",
            left_out="dropout and layer drop, sounds that are not WAV files",
        ),
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_audio.configs"]
