"""What the toy plugin announces."""

from __future__ import annotations

from loongforge_core.component import ComponentSpec, DatasetSpec
from loongforge_core.registry.hooks import hookimpl

CONFIG = "toy_plugin.config:"


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="encoder",
            name="eye",
            summary="sees",
            modalities=("image", "video"),
            config=CONFIG + "EyeConfig",
            processor="toy_plugin.processor:EyeProcessor",
            reference="nature.Eye",
            left_out="colours",
        ),
        ComponentSpec(
            kind="encoder",
            name="ear",
            summary="hears",
            modalities=("audio",),
            config=CONFIG + "EarConfig",
            processor="toy_plugin.processor:EarProcessor",
        ),
        ComponentSpec(kind="projector", name="bridge", summary="joins", config=CONFIG + "BridgeConfig"),
        ComponentSpec(kind="projector", name="fold", summary="folds", config=CONFIG + "FoldConfig"),
        ComponentSpec(kind="backbone", name="brain", summary="thinks", config=CONFIG + "BrainConfig"),
        ComponentSpec(kind="backbone", name="deaf_brain", summary="thinks, without levels", config=CONFIG + "DeafBrainConfig"),
        ComponentSpec(kind="recipe", name="story", summary="tells", config=CONFIG + "StoryConfig"),
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["toy_plugin.configs"]


@hookimpl
def loongforge_datasets() -> list[DatasetSpec]:
    return [DatasetSpec(name="pictures", summary="a few pictures", prepare="toy_plugin.plugin:prepare")]


def prepare(folder: object) -> object:
    return folder
