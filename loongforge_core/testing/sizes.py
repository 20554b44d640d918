"""Published sizes: the YAML that a plugin ships describes exactly the model that its authors published.

    def test_published_size():
        reference = transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**FIGURES)
        check_published_size("qwen2.5/qwen2_5_7b", *reference, parameters=7_615_616_512)

The figures of the reference come from its authors, never from the YAML. Nothing is allocated: both sides are built on the meta device.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import yaml

from loongforge_core.component import ComponentConfig
from loongforge_core.config.check import load_composition
from loongforge_core.layers.interfaces import Component
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import Ours, our_model, ours
from loongforge_core.weights.config_keys import config_fields, config_problems, write_config
from loongforge_core.weights.holding import holdings
from loongforge_core.weights.import_hf import check_config

__all__ = ["check_published_model", "check_published_size", "names_on_disk", "published_config"]


def check_published_size(
    name: str,
    model_class: Any,
    model_config: Any,
    *,
    parameters: int | None = None,
    layers: int | None = None,
    registry: Registry | None = None,
    **inferred: int,
) -> None:
    """Parameters, every tensor's name on disk and shape, and every key of config.json; `inferred` are fields that core would fill in.

    `layers`: where all others are like the last of so many, only these are built of ours, and the reference alone is counted whole. Some
    published models have ten thousand experts.
    """
    registry = registry or Registry.discover()
    config = published_config(name, registry, inferred)
    reference = counted(name, model_class, model_config, parameters)
    with ours(first_layers(config, layers), registry=registry, device=torch.device("meta")) as built:
        check_tensors(name, built, reference if layers is None else first_of_reference(model_class, model_config, layers))
        tree = {key: value for key, value in reference.config.to_dict().items() if key != "model_type"}
        problems = config_problems(built.table.keys, tree, config)
        assert not problems, f"{name}: {problems}"
        read = type(config).model_validate({**config.model_dump(exclude_unset=True), **config_fields(built.table.keys, tree)})
        assert write_config(built.table.keys, read) == write_config(built.table.keys, config), f"{name}: config.json reads as {read}"


def check_published_model(
    name: str,
    model_class: Any,
    model_config: Any,
    *,
    parameters: int | None = None,
    disk_tensors: int | None = None,
    layers: int | None = None,
    registry: Registry | None = None,
) -> None:
    """The same of a whole composition that a plugin publishes, in the format that an export of it has: so many tensors in all."""
    registry = registry or Registry.discover()
    whole = load_composition(name, registry=registry)
    composition = whole if layers is None else load_composition(name, [f"model.foundation.num_layers={layers}"], registry=registry)
    reference = counted(name, model_class, model_config, parameters, disk_tensors)
    with our_model(composition, registry=registry, device=torch.device("meta")) as built:
        check_tensors(name, built, reference if layers is None else first_of_reference(model_class, model_config, layers))
        problems = check_config(built.table, reference.config.to_dict(), {slot: each.config for slot, each in whole.slots.items()})
        assert not problems, f"{name}: {problems}"


def counted(name: str, model_class: Any, model_config: Any, parameters: int | None, disk_tensors: int | None = None) -> Any:
    """The reference, which has so many parameters and, on disk, so many tensors."""
    with torch.device("meta"):
        reference = model_class(model_config)
    count = sum(parameter.numel() for parameter in reference.parameters())
    assert parameters in (None, count), f"{name} has {count:,} parameters, published are {parameters:,}"
    if disk_tensors is not None:
        names = names_on_disk(reference)
        assert len(names) == disk_tensors, f"{name} has {len(names):,} tensors on disk, published are {disk_tensors:,}"
    return reference


def first_of_reference(model_class: Any, model_config: Any, layers: int) -> Any:
    config = copy.deepcopy(model_config)
    config.get_text_config().num_hidden_layers = layers
    with torch.device("meta"):
        return model_class(config)


def first_layers(config: ComponentConfig, layers: int | None) -> ComponentConfig:
    """`config` with so many layers, and what it says of each of them."""
    if layers is None:
        return config
    fields = config.model_dump(exclude_unset=True)
    of_each = {key: value[:layers] for key, value in fields.items() if isinstance(value, list) and len(value) == fields["num_layers"]}
    return type(config)(**{**fields, **of_each, "num_layers": layers})


def check_tensors(name: str, built: Ours, reference: Any) -> None:
    """Names on disk and shapes, and as many parameters."""
    target = {"": built.target} if isinstance(built.target, Component) else {f"{slot}.": part for slot, part in built.target.items()}
    shapes = built.table.shapes_on_disk({name: holding.shape for name, holding in holdings(target).items()})
    canonical = {built.table.canonical(name) or name: shape for name, shape in names_on_disk(reference).items()}
    rules = {name: entry.rule for entry in built.table.entries for name in entry.theirs}
    both = {name: (shapes.get(name), canonical.get(name)) for name in shapes.keys() | canonical.keys()}
    wrong = {name: (our, their) for name, (our, their) in both.items() if our is None or their is None or not rules[name].reads(their, our)}
    assert not wrong, f"{name}: {len(wrong)} tensors differ (ours, theirs), such as {dict(list(wrong.items())[:4])}"
    count = sum(parameter.numel() for parameter in built.model.parameters())
    assert count == sum(parameter.numel() for parameter in reference.parameters())


def published_config(name: str, registry: Registry, inferred: Mapping[str, int]) -> ComponentConfig:
    """The config that a plugin's `GROUP/NAME.yaml` describes."""
    files = [file for folder in registry.config_folders if (file := folder.path / f"{name}.yaml").is_file()]
    assert len(files) == 1, f"{name}.yaml is published {len(files)} times"
    tree = yaml.safe_load(files[0].read_text(encoding="utf-8"))
    (spec,) = (each.spec for each in registry.components() if each.spec.name == tree["type"] and each.spec.kind != "recipe")
    fields = {key: value for key, value in tree.items() if key != "type"}
    config: ComponentConfig = registry.load(spec, "config")(**fields, **inferred)
    return config


def names_on_disk(reference: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of what `save_pretrained` would write, by name; tied tensors once."""
    from transformers.core_model_loading import revert_weight_conversion

    tied = set(reference.all_tied_weights_keys)
    state = {name: tensor for name, tensor in reference.state_dict().items() if name not in tied}
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(reference, state).items()}
