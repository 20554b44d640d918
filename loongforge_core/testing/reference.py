"""What parity and round trip start from: a reference with every tensor redrawn, saved as its authors save it, and ours beside it.

A reference is a model of transformers, or any module whose state has the names on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from loongforge_core.component import ComponentConfig
from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import BuildContext, Component
from loongforge_core.model.auto import AutoModel, spec_of
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.groups import component_groups
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.weights.config_keys import write_config
from loongforge_core.weights.folder import WeightsFolder, write_json
from loongforge_core.weights.formats import slot_table, whole_table
from loongforge_core.weights.table import Table

__all__ = ["Ours", "different_tensors", "our_model", "ours", "read_tensors", "redraw", "save_reference"]


def redraw(reference: nn.Module, seed: int = 0) -> None:
    """Every parameter and stored buffer from a normal distribution: fresh zeros and ones hide tensors that are swapped or missing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in reference.state_dict().items():
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                # Experts in one tensor are matrices side by side, not one of the width of all its axes: they would count for nothing.
                matrix = tensor[0] if ".experts." in name and tensor.ndim > 2 else tensor
                width = matrix[0].numel() if tensor.ndim > 1 else 4
                tensor.normal_(0.5 if tensor.ndim == 1 else 0.0, width**-0.5, generator=generator)


def save_reference(reference: Any, folder: Path, table: Table, config: Any) -> None:
    """As transformers saves it; a module that is no model of its own as its bare tensors, with the config.json that the table writes."""
    if hasattr(reference, "save_pretrained"):
        reference.save_pretrained(folder)
        return
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in reference.state_dict().items()}, folder / "model.safetensors")
    write_json(folder / "config.json", write_config((*table.keys, *table.own_type()), config))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by their names on disk."""
    stored = WeightsFolder(folder)
    return {name: stored.read(name) for name in stored.tensors}


@dataclass(frozen=True)
class Ours:
    """A component, or a whole model, of ours in this process, with its table."""

    model: Any
    """What computes: the component, or the `OmniCombinationModel`."""
    target: Component[Any] | Mapping[str, Component[Any]]
    """What `import_hf` takes: the component, or all of them by slot."""
    config: Any
    """The component's config, or all of them by slot."""
    table: Table


@contextmanager
def ours(config: ComponentConfig, *, registry: Registry | None = None, table: Table | None = None, **context: Any) -> Iterator[Ours]:
    """The component that `config` belongs to, unfilled, while this process is a group of one. `context` goes into the build context."""
    registry = registry or Registry.discover()
    spec = spec_of(config, registry)
    with single_process():
        component = AutoModel.from_config(config, BuildContext(groups=component_groups(), **context), registry, spec=spec)
        yield Ours(component, component, config, table or slot_table(spec, component, registry))


@contextmanager
def our_model(composition: Composition, *, registry: Registry | None = None, device: torch.device | None = None) -> Iterator[Ours]:
    """The model of a composition that has a published format, with its initial weights, while this process is a group of one.

    On the device `meta` it has no values.
    """
    registry = registry or Registry.discover()
    table = whole_table(composition, registry)
    assert table is not None, f"{composition.name} has no published format"
    with single_process():
        model = OmniModelProvider(composition=composition, registry=registry, device=device)()
        yield Ours(model, model.components(), {name: slot.config for name, slot in composition.slots.items()}, table)


def different_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> list[str]:
    """Names whose tensors are not the same, bit for bit, or that only one side has."""
    both = left.keys() & right.keys()
    different = [name for name in both if left[name].dtype != right[name].dtype or not torch.equal(left[name], right[name])]
    return sorted({*different, *(left.keys() ^ right.keys())})
