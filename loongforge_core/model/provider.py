"""`OmniModelProvider`: builds the part of a composition that belongs on this rank.

Called as Megatron's own trainers call their `model_provider`. It bridges what the training side knows (precision, sequence length,
padded vocabulary) to the components, which know only their config and their build context.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from loongforge_core.config.composition import Composition, Slot
from loongforge_core.config.layout.sizes import layers_of_stages, tensor_size
from loongforge_core.config.slot_names import FOUNDATION, encoder_slot, slot_modality
from loongforge_core.errors import PluginError
from loongforge_core.layers.interfaces import Backbone, BuildContext, Component, PipelineStage, Recipe
from loongforge_core.model.auto import AutoModel
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.encoder import OmniEncoderModel
from loongforge_core.model.freeze import check_patterns, freeze
from loongforge_core.parallel.bookkeeping import described_parameters, mark_owned
from loongforge_core.parallel.global_state import global_groups
from loongforge_core.parallel.groups import component_groups, encoder_groups, local_device
from loongforge_core.parallel.initialise import initialise
from loongforge_core.registry.registry import Registry

__all__ = ["OmniModelProvider"]


@dataclass(frozen=True, kw_only=True)
class OmniModelProvider:
    """`provider(pre_process, post_process, vp_stage)` -> the model of that stage, with its initial weights, frozen as the slots say."""

    composition: Composition
    registry: Registry
    dtype: torch.dtype | None = None
    """Default: what `train.precision` says."""
    device: torch.device | None = None
    """Default: this rank's accelerator, else the CPU; `meta` builds without memory and without values."""
    cross_entropy_dtype: torch.dtype = torch.float32
    """Precision of the loss over the vocabulary."""
    fill: Callable[[Mapping[str, Component[Any]]], Collection[str]] | None = None
    """Gives components, which it gets by slot, other values than initial ones, and returns the names that need none then, behind their
    slots': drawing takes several times as long as reading."""

    def __call__(
        self,
        pre_process: bool | None = None,
        post_process: bool | None = None,
        vp_stage: int | None = None,
        config: Any = None,
        pg_collection: Any = None,
    ) -> OmniCombinationModel:
        """Stage flags default to this rank's place in the pipeline, groups to Megatron's own. `config`, Megatron's, is not needed."""
        context = self.context(pg_collection or component_groups(), pre_process, post_process, vp_stage)
        settings = self.composition.run
        model = self.build(context)
        for slot, component in model.components().items():
            described = list(described_parameters(component))
            require_described(slot, component, described)
            mark_owned(described)
        if context.device.type != "meta":
            filled = self.fill(model.components()) if self.fill else ()
            initialise(model.components(), seed=settings.train.seed, filled=filled)
        slots = {name: slot.settings for name, slot in self.composition.slots.items()}
        if context.stage == PipelineStage():  # else all stages together know whether a pattern matches anything
            check_patterns([model.components()], slots)
        freeze(model.components(), slots)
        return model

    def build(self, context: BuildContext) -> OmniCombinationModel:
        """The modules alone, their parameters allocated and not filled."""
        slots = self.composition.slots
        in_front = {}
        if context.stage.pre_process:
            contexts = self.contexts_in_front(context)
            for name, own in contexts.items():
                with global_groups(own.groups):
                    in_front[name] = self.component(slots[name], own)
        foundation = self.component(slots[FOUNDATION], context) if FOUNDATION in slots else None
        assert foundation is None or isinstance(foundation, Backbone)
        recipe_class = self.registry.load(self.composition.recipe, "model") if self.composition.recipe.model else Recipe
        encoder = OmniEncoderModel(in_front, self.composition.encoded_by) if in_front else None
        recipe = recipe_class(self.composition.recipe_config)
        return OmniCombinationModel(encoder=encoder, foundation=foundation, recipe=recipe)

    def component(self, slot: Slot, context: BuildContext) -> Component[Any]:
        context = replace(context, backend=slot.settings.backend or context.backend)
        return AutoModel.from_config(slot.config, context, self.registry, spec=slot.spec)

    def contexts_in_front(self, context: BuildContext) -> Mapping[str, BuildContext]:
        """How every encoder runs, and its projector with it: in groups of its own, as `parallel.<slot>` says."""
        parallel = self.composition.run.parallel
        sizes = {name: tensor_size(parallel, name) for name in parallel.encoders}
        groups = {size: encoder_groups(context.groups, size) for size in sorted(set(sizes.values()))}
        return {
            name: replace(
                context,
                groups=groups[sizes[encoder_slot(slot_modality(name))]],
                sequence_parallel=False,
                stage=PipelineStage(),
                layout={},
            )
            for name in self.composition.slots
            if name != FOUNDATION
        }

    def context(self, groups: Any, pre_process: bool | None, post_process: bool | None, vp_stage: int | None) -> BuildContext:
        train = self.composition.run.train
        foundation = self.composition.foundation
        first, last = groups.pp.rank() == 0, groups.pp.rank() == groups.pp.size() - 1
        return BuildContext(
            groups=groups,
            dtype=self.dtype or {"fp32": torch.float32, "bf16": torch.bfloat16}[train.precision],
            device=self.device or local_device(),
            recompute=train.recompute,
            sequence_parallel=self.composition.run.parallel.sequence_parallel,
            stage=PipelineStage(
                pre_process=first if pre_process is None else pre_process,
                post_process=last if post_process is None else post_process,
                vp_stage=vp_stage,
            ),
            padded_vocab_size=padded(foundation.vocab_size, groups.tp.size()) if foundation else None,
            max_sequence_length=train.seq_length,
            cross_entropy_dtype=self.cross_entropy_dtype,
            layout=pipeline_fields(self.composition),
        )


def require_described(slot: str, component: Component[Any], described: Iterable[Any]) -> None:
    """Raises PluginError naming parameters that would have no initial value, no owner and no place in a checkpoint."""
    known = {id(part.data) for part in described}
    if missing := [name for name, parameter in component.named_parameters() if id(parameter) not in known]:
        raise PluginError(f"the component in slot {slot} leaves parameters out of its `sharded_state_dict`: {', '.join(missing)}")


def pipeline_fields(composition: Composition) -> Mapping[str, Any]:
    """Megatron's field that says which layers each pipeline stage holds, where there are several."""
    parallel, foundation = composition.run.parallel, composition.foundation
    if foundation is None or parallel.pipeline_model_parallel_size == 1:
        return {}
    stages = [["decoder"] * layers for layers in layers_of_stages(parallel, foundation.num_layers)]
    stages[0].insert(0, "embedding")
    stages[-1].append("loss")
    return {"pipeline_model_parallel_layout": stages}


def padded(vocab_size: int, tensor_parallel_size: int) -> int:
    """The next multiple of the tensor-parallel size."""
    return -(-vocab_size // tensor_parallel_size) * tensor_parallel_size
