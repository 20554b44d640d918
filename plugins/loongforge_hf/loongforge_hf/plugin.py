"""What this plugin adds to LoongForge."""

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="encoder",
            name="hf_encoder",
            summary="a vision or audio model of transformers, by its name in a tested list: ViT, DINOv2 and 3, wav2vec 2.0, WavLM, ...",
            modalities=("image", "audio"),
            config="loongforge_hf.hf_encoder.config:HfEncoderConfig",
            model="loongforge_hf.hf_encoder.model:HfEncoder",
            weights="loongforge_hf.hf_encoder.weights:table",
            processor="loongforge_hf.hf_encoder.processor:HfProcessor",
            reference="the model of that name in transformers",
            left_out="tensor parallelism, dropout and masking while training, pooled outputs and heads, items of any size but sounds",
        ),
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_hf.configs"]
