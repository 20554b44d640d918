"""Every hook is documented."""

from __future__ import annotations

import inspect

import pluggy

from loongforge_core.registry import hooks


def test_every_hook_says_what_it_is_for() -> None:
    manager = pluggy.PluginManager("loongforge")
    manager.add_hookspecs(hooks)
    names = [name for name, function in vars(hooks).items() if manager.parse_hookspec_opts(hooks, name) is not None]
    assert names == ["loongforge_components", "loongforge_config_paths", "loongforge_datasets"]
    for name in names:
        assert len(inspect.getdoc(getattr(hooks, name)) or "") > 40, f"hook {name} has no docs"
