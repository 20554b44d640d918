"""Every hook that a plugin can implement. Decorate the implementation with `hookimpl`.

A plugin is a module named by an entry point in the group `loongforge`. It is imported in every process and by every command, so it
returns strings and light objects only; what they name is imported when it is selected.
"""

from __future__ import annotations

import pluggy

from loongforge_core.component import ComponentSpec, DatasetSpec

__all__ = ["ENTRY_POINT_GROUP", "hookimpl", "hookspec"]

ENTRY_POINT_GROUP = "loongforge"

hookspec = pluggy.HookspecMarker("loongforge")
hookimpl = pluggy.HookimplMarker("loongforge")


@hookspec
def loongforge_components() -> list[ComponentSpec]:  # type: ignore[empty-body]
    """The encoders, projectors, backbones and recipes that this plugin brings.

    Names are unique per kind over all installed plugins; a name that two plugins publish cannot be selected.
    """


@hookspec
def loongforge_config_paths() -> list[str]:  # type: ignore[empty-body]
    """Packages (importable folders, such as `my_plugin.configs`) that hold this plugin's YAML.

    In such a folder `GROUP/NAME.yaml` is a size of a component and `NAME.yaml` or `FOLDER/NAME.yaml` with a `model:` section is a
    composition. The package's data must be part of the wheel.
    """


@hookspec
def loongforge_datasets() -> list[DatasetSpec]:  # type: ignore[empty-body]
    """Data sets that this plugin can write out, for `data.prepare: NAME`."""
