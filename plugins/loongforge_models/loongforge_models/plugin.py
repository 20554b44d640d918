"""What this plugin adds to LoongForge: recipes, complete compositions and the digits data."""

from loongforge_core.component import ComponentSpec, DatasetSpec
from loongforge_core.registry.hooks import hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="recipe",
            name="llava",
            summary="LLaVA: one image encoder, a token-wise projector, any language model; published as LlavaForConditionalGeneration",
            modalities=("image",),
            config="loongforge_models.llava.config:LlavaConfig",
            weights="loongforge_models.llava.weights:table",
            reference="transformers.LlavaForConditionalGeneration",
            paper="arXiv:2310.03744",
        )
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_models.configs"]


@hookimpl
def loongforge_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="digits",
            summary="1,797 scanned digits of scikit-learn as questions with two, one and no images",
            prepare="loongforge_models.digits.prepare:prepare",
        )
    ]
