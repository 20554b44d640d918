"""What this plugin adds to LoongForge."""

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="encoder",
            name="siglip",
            summary="SigLIP's vision tower: fixed-size images, learned positions, no class token",
            modalities=("image",),
            config="loongforge_vit.siglip.config:SiglipConfig",
            model="loongforge_vit.siglip.model:SiglipEncoder",
            weights="loongforge_vit.siglip.weights:table",
            processor="loongforge_vit.siglip.processor:SiglipProcessor",
            reference="transformers.SiglipVisionModel",
            paper="arXiv:2303.15343",
        )
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_vit.configs"]
