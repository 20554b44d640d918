"""What this plugin adds to LoongForge."""

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="projector",
            name="mlp",
            summary="LLaVA's projector: linear, GELU, linear, token by token",
            config="loongforge_projectors.mlp.config:MlpConfig",
            model="loongforge_projectors.mlp.model:MlpProjector",
            weights="loongforge_projectors.mlp.weights:table",
            reference="transformers.models.llava.modeling_llava.LlavaMultiModalProjector",
            paper="arXiv:2310.03744",
        )
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_projectors.configs"]
