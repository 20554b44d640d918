"""Published sizes: the YAML that a plugin ships describes exactly the model that its authors published.

    def test_published_size():
        reference = transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**FIGURES)
        check_published_size("qwen2.5/qwen2_5_7b", *reference, parameters=7_615_616_512)

The figures of the reference come from its authors, never from the YAML. Nothing is allocated: both sides are built on the meta device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import yaml

from loongforge_core.component import ComponentConfig
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import ours
from loongforge_core.weights.config_keys import config_fields, config_problems, write_config
from loongforge_core.weights.holding import holdings

__all__ = ["check_published_size", "names_on_disk", "published_config"]


def check_published_size(
    name: str, model_class: Any, model_config: Any, *, parameters: int | None = None, registry: Registry | None = None, **inferred: int
) -> None:
    """Parameters, every tensor's name on disk and shape, and every key of config.json; `inferred` are fields that core would fill in."""
    registry = registry or Registry.discover()
    config = published_config(name, registry, inferred)
    with torch.device("meta"):
        reference = model_class(model_config)
    theirs = names_on_disk(reference)
    with ours(config, registry=registry, device=torch.device("meta")) as built:
        shapes = built.table.shapes_on_disk({name: holding.shape for name, holding in holdings({"": built.model}).items()})
        canonical = {built.table.canonical(name) or name: shape for name, shape in theirs.items()}
        wrong = {name: (shapes.get(name), canonical.get(name)) for name in shapes.keys() | canonical.keys()}
        wrong = {name: both for name, both in wrong.items() if both[0] != both[1]}
        assert not wrong, f"{name}: {len(wrong)} tensors differ (ours, theirs), such as {dict(list(wrong.items())[:4])}"
        count = sum(parameter.numel() for parameter in built.model.parameters())
        assert count == sum(parameter.numel() for parameter in reference.parameters())
        assert parameters in (None, count), f"{name} has {count:,} parameters, published are {parameters:,}"
        tree = {key: value for key, value in reference.config.to_dict().items() if key != "model_type"}
        problems = config_problems(built.table.keys, tree, config)
        assert not problems, f"{name}: {problems}"
        read = type(config).model_validate({**config.model_dump(exclude_unset=True), **config_fields(built.table.keys, tree)})
        assert write_config(built.table.keys, read) == write_config(built.table.keys, config), f"{name}: config.json reads as {read}"


def published_config(name: str, registry: Registry, inferred: Mapping[str, int]) -> ComponentConfig:
    """The config that a plugin's `GROUP/NAME.yaml` describes."""
    files = [file for folder in registry.config_folders if (file := folder.path / f"{name}.yaml").is_file()]
    assert len(files) == 1, f"{name}.yaml is published {len(files)} times"
    tree = yaml.safe_load(files[0].read_text(encoding="utf-8"))
    kinds = [published.spec for published in registry.components() if published.spec.name == tree["type"]]
    (spec,) = kinds
    fields = {key: value for key, value in tree.items() if key != "type"}
    config: ComponentConfig = registry.load(spec, "config")(**fields, **inferred)
    return config


def names_on_disk(reference: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of what `save_pretrained` would write, by name; tied tensors once."""
    from transformers.core_model_loading import revert_weight_conversion

    tied = set(reference.all_tied_weights_keys)
    state = {name: tensor for name, tensor in reference.state_dict().items() if name not in tied}
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(reference, state).items()}
