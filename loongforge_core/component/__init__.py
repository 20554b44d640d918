"""The page a plugin author reads first: what a component is, and how a plugin announces it.

A plugin is an installed distribution with an entry point in the group `loongforge`, naming a module that implements hooks
(`loongforge_core.registry.hooks`). `loongforge new-plugin` writes one that trains at once.

    # my_plugin/plugin.py                                         # pyproject.toml
    from loongforge_core import ComponentSpec, hookimpl           [project.entry-points.loongforge]
                                                                  my_plugin = "my_plugin.plugin"
    @hookimpl
    def loongforge_components():
        return [
            ComponentSpec(
                kind="encoder",
                name="my_encoder",
                summary="convolutions over radar sweeps",
                modalities=("radar",),
                config="my_plugin.my_encoder.config:MyConfig",
                model="my_plugin.my_encoder.model:MyEncoder",
                processor="my_plugin.my_encoder.processor:MyProcessor",
            )
        ]

    @hookimpl
    def loongforge_config_paths():
        return ["my_plugin.configs"]          # a package (folder) that holds YAML: GROUP/NAME.yaml, and compositions

`loongforge check-plugin my_plugin` tries what core relies on in each component, and says how to mend what it finds; in the plugin's own
tests it is one line (`loongforge_core.testing.conformance`).

A component has up to four parts, each a string `package.module:attribute`, imported only when it is used:

    config     a subclass of EncoderConfig, ProjectorConfig, BackboneConfig (config.py) or RecipeConfig (recipe.py); imports no torch
    model      a module that implements loongforge_core.layers.interfaces; builds from (config, context)
    weights    a function config -> loongforge_core.weights.table.Table, for import from and export to Hugging Face
    processor  a Processor (processor.py): a file -> the encoder's inputs; numpy only; encoders have one. `loongforge_core.media` opens
               images and sounds

This package imports neither torch nor Megatron, and neither may a `config` or a `processor` module: `loongforge list`,
`validate` and the data workers use them. What a plugin needs of this page and of `layers.interfaces` is imported from
`loongforge_core` itself, which imports torch only when such a name needs it; errors in a user's files are raised as `DataError(message)`.

YAML then selects the component by name, in a slot named after its modality, and data brings items in a column named after it:

    model:                                    # my_model.yaml, a composition
      radar_encoder: {type: my_encoder, hidden_size: 64}          # `type`, keys of the slot (SLOT_KEYS), the config's fields
      radar_projector: {type: mlp}            # any installed projector; its widths follow from its neighbours
      foundation: {type: qwen2, ...}          # any installed backbone
    tokenizer: /path/to/hf/folder             # or pkg://my_plugin/tokenizer, a folder inside an installed package
    data: {path: train.jsonl}

    {"messages": [{"role": "user", "content": "<radar>How many?"}, {"role": "assistant", "content": "3"}], "radars": ["sweeps/0.npy"]}

Without a `model_type`, the default recipe writes an item as the tag of its modality, `<radar>`.
"""

from __future__ import annotations

from loongforge_core.component.config import (
    SLOT_KEYS,
    BackboneConfig,
    Backend,
    ComponentConfig,
    EncoderConfig,
    ProjectorConfig,
    Shape,
    indivisible,
)
from loongforge_core.component.initial_values import Initial, InitialValues
from loongforge_core.component.processor import Augmentation, ProcessedItem, Processor
from loongforge_core.component.recipe import ItemMarkup, ItemRun, ItemSpan, RecipeConfig
from loongforge_core.component.spec import API_VERSION, SUPPORTED_API_VERSIONS, ComponentSpec, DatasetSpec, Kind

__all__ = [
    "API_VERSION",
    "SLOT_KEYS",
    "SUPPORTED_API_VERSIONS",
    "Augmentation",
    "BackboneConfig",
    "Backend",
    "ComponentConfig",
    "ComponentSpec",
    "DatasetSpec",
    "EncoderConfig",
    "Initial",
    "InitialValues",
    "ItemMarkup",
    "ItemRun",
    "ItemSpan",
    "Kind",
    "ProcessedItem",
    "Processor",
    "ProjectorConfig",
    "RecipeConfig",
    "Shape",
    "indivisible",
]
