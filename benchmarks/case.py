"""A component beside its reference, as `benchmarks.components` times them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from loongforge_core.component import ComponentConfig
from loongforge_core.layers.interfaces import BuildContext
from loongforge_core.model.auto import AutoModel, spec_of
from loongforge_core.parallel.groups import component_groups
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import Ours, ours
from loongforge_core.weights.table import Table, combine

__all__ = ["SIDE_BY_SIDE", "Case", "several"]

SIDE_BY_SIDE = (
    "Megatron's layers hold the tokens of all samples side by side, [s, b, h], so that attention steps over the batch from each token to "
    "the next, where the reference reads one behind another: 7 to 10 % of attention's time. Packed samples lie as in the reference."
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is built, and how each side makes of the same inputs what is compared."""

    name: str
    config: ComponentConfig | Mapping[str, ComponentConfig]
    """A component's, or by slot those of several that are one class of the reference."""
    reference: Any
    run_ours: Callable[[Any], Tensor]
    """Of the component, or of a `ModuleDict` by slot."""
    run_reference: Callable[[Any], Tensor]
    table: Table | None = None
    """Of the reference's folder, where it is not the component's own."""
    footnote: str = ""
    """Why ours is slower, where it is by a little."""

    def build(self, **context: Any) -> AbstractContextManager[Ours]:
        """Ours, unfilled. `context` goes into the build context."""
        return several(self.config, **context) if isinstance(self.config, Mapping) else ours(self.config, table=self.table, **context)


@contextmanager
def several(configs: Mapping[str, ComponentConfig], **build: Any) -> Iterator[Ours]:
    """Components by slot, with the table of one class that is all of them: each of its own part is the table without a prefix."""
    registry = Registry.discover()
    with single_process():
        context = BuildContext(groups=component_groups(), **build)
        parts = {slot: AutoModel.from_config(config, context, registry) for slot, config in configs.items()}
        tables = {slot: registry.load(spec_of(config, registry), "weights")(config) for slot, config in configs.items()}
        nested = [replace(table, model_type="").under(theirs="", ours=slot, section="") for slot, table in tables.items()]
        yield Ours(nn.ModuleDict(parts), parts, configs, combine(nested))
