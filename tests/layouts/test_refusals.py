"""What `validate` accepts, Megatron-Core builds, and what Megatron-Core would refuse, `validate` does: compared on drawn sizes.

A fake process group lets one process be any rank; modules are built without memory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from models import MODELS
from test_pairs import DIMENSIONS, ENCODERS, is_valid, layout_of
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from loongforge_core.component import ComponentConfig, ComponentSpec
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.config.layout.check import check_layout
from loongforge_core.config.layout.sizes import layers_of_stages
from loongforge_core.config.provenance import Provenance
from loongforge_core.config.sentences import Findings
from loongforge_core.config.slot_names import FOUNDATION
from loongforge_core.errors import ConfigError
from loongforge_core.layers.interfaces import BuildContext
from loongforge_core.model.auto import AutoModel
from loongforge_core.model.provider import OmniModelProvider, pipeline_fields
from loongforge_core.parallel.groups import component_groups
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry import Registry
from loongforge_core.testing.pairs import all_rows

META = torch.device("meta")

# ---- layers over stages, which needs no module


@dataclass(frozen=True)
class Stages:
    """Layers and how they are to be shared."""

    layers: int
    stages: int
    first: int | None
    last: int | None

    @staticmethod
    def drawn(draw: random.Random) -> Stages:
        stages = draw.randint(2, 6)
        layers = draw.choice([draw.randint(1, 14), stages * draw.randint(1, 3)])
        first, last = (draw.choice([None, None, draw.randint(1, 6)]) for _ in range(2))
        if draw.random() < 0.5 and first is not None:  # so that many do fit
            layers = first + (last or 0) + (stages - 1 - (last is not None)) * draw.randint(1, 3)
        return Stages(layers, stages, first, last)

    def parallel(self, **more: Any) -> dict[str, Any]:
        return {
            "pipeline_model_parallel_size": self.stages,
            "num_layers_in_first_pipeline_stage": self.first,
            "num_layers_in_last_pipeline_stage": self.last,
            **more,
        }

    def composition(self, registry: Registry, **more: Any) -> Composition:
        model = {
            "model_type": "llava",
            "image_encoder": {"type": "siglip"},
            "image_projector": {"type": "mlp"},
            FOUNDATION: language_model(num_layers=self.layers),
        }
        return composition_from({"model": model, "parallel": self.parallel(**more)}, registry, world_size=None)

    def by_megatron(self) -> tuple[int, ...] | None:
        """Layers of every stage as Megatron shares them itself; None where it refuses to, or a stage is left without any, or less."""
        try:
            config = TransformerConfig(
                num_layers=self.layers, hidden_size=4, num_attention_heads=1, pipeline_dtype=torch.float32, **self.parallel()
            )
            shares = tuple(get_num_layers_to_build(config, None, rank) for rank in range(self.stages))
        except (ValueError, AssertionError):
            return None
        return shares if min(shares) > 0 else None


def language_model(**sizes: Any) -> dict[str, Any]:
    return {"type": "qwen2", "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 32, "num_attention_heads": 4, "vocab_size": 40, **sizes}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


def test_stages_have_the_layers_that_megatron_gives_them(registry: Registry) -> None:
    draw, accepted = random.Random(7), 0
    for _ in range(300):
        stages = Stages.drawn(draw)
        expected = stages.by_megatron()
        try:
            composition = stages.composition(registry)
        except ConfigError:
            assert expected is None, f"Megatron-Core shares {stages} as {expected}"
            continue
        accepted += 1
        assert layers_of_stages(composition.run.parallel, stages.layers) == expected, f"{stages}"
    assert 60 < accepted < 240


def test_behind_the_encoders_stage_layers_are_shared_as_evenly_as_possible(registry: Registry) -> None:
    draw, accepted = random.Random(8), 0
    for _ in range(200):
        stages = Stages.drawn(draw)
        stages = Stages(stages.layers, stages.stages, None, stages.last)
        try:
            composition = stages.composition(registry, encoder_pipeline_model_parallel_size=1)
        except ConfigError:
            continue
        accepted += 1
        first, *others = layers_of_stages(composition.run.parallel, stages.layers)
        balanced = others if stages.last is None else others[:-1]
        assert first == 0
        assert all(others)
        assert sum(others) == stages.layers
        assert not balanced or max(balanced) - min(balanced) <= 1
        assert balanced == sorted(balanced, reverse=True)
        assert stages.last in (None, others[-1])
        assert megatron_layers(composition) == (first, *others)
    assert accepted > 60


def megatron_layers(composition: Composition) -> tuple[int, ...]:
    """Of the list that the provider hands to Megatron, as Megatron reads it."""
    assert composition.foundation is not None
    stages = composition.run.parallel.pipeline_model_parallel_size
    layout = PipelineParallelLayerLayout(pipeline_fields(composition)["pipeline_model_parallel_layout"], stages)
    layout.validate_layer_layout(composition.foundation.num_layers, 0)
    return tuple(layout.get_num_layers_to_build(LayerType.decoder, 0, rank) for rank in range(stages))


# ---- components over tensor ranks


def become_rank(rank: int, *, tensor: int, pipeline: int = 1) -> None:
    """This process becomes one of `tensor` x `pipeline`, in Megatron's groups; nothing that it sends arrives."""
    if distributed.is_initialized():
        parallel_state.destroy_model_parallel()
        distributed.destroy_process_group()
    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=tensor * pipeline)
    parallel_state.initialize_model_parallel(tensor, pipeline, create_gloo_process_groups=False)


def decoder_sizes(draw: random.Random) -> Mapping[str, Any]:
    groups = draw.randint(1, 6)
    heads = groups * draw.randint(1, 4)
    return {
        "num_attention_heads": heads,
        "num_query_groups": groups,
        "kv_channels": 2 * draw.randint(1, 3),
        "ffn_hidden_size": draw.choice([12, 24, draw.randint(1, 30)]),
        "vocab_size": draw.choice([40, draw.randint(1, 12)]),
    }


def siglip_sizes(draw: random.Random) -> Mapping[str, Any]:
    heads = draw.randint(1, 12)
    return {
        "num_attention_heads": heads,
        "hidden_size": 2 * heads,
        "ffn_hidden_size": draw.choice([12, 24, draw.randint(1, 30)]),
        "num_layers": 2,
        "feature_layer": -2,
        "image_size": 8,
        "patch_size": 4,
    }


def disagreements(seed: int, number: int) -> tuple[list[str], int]:
    """Where a component's config and its module do not agree on a tensor size; how many were built."""
    registry, draw, wrong, built = Registry.discover(), random.Random(seed), [], 0
    qwen2, siglip = registry.component("backbone", "qwen2"), registry.component("encoder", "siglip")
    for size in range(1, 9):
        become_rank(size - 1, tensor=size)
        for _ in range(number):
            for spec, sizes in ((qwen2, {**language_model(), **decoder_sizes(draw)}), (siglip, siglip_sizes(draw))):
                fields = {name: value for name, value in sizes.items() if name != "type"}
                config = registry.load(spec, "config").model_validate(fields)
                accepted, error = not config.tensor_parallel_conflicts(size), build_error(spec, config, size, registry)
                built += error is None
                if accepted != (error is None):
                    wrong.append(f"{spec.name} {fields} over {size}: accepted: {accepted}, building it: {error!r}")
    return wrong, built


def build_error(spec: ComponentSpec, config: ComponentConfig, size: int, registry: Registry) -> Exception | None:
    rows = -(-config.vocab_size // size) * size if hasattr(config, "vocab_size") else None
    context = BuildContext(groups=component_groups(), device=META, padded_vocab_size=rows)
    try:
        with META:
            AutoModel.from_config(config, context, registry, spec=spec)
    except (ValueError, AssertionError) as error:  # Megatron's
        return error
    return None


def test_components_are_refused_where_megatron_would_refuse_them() -> None:
    ((wrong, built),) = run_ranks(disagreements, 1, 3, 12)
    assert not wrong, "\n".join(wrong)
    assert 40 < built < 160


# ---- whole models


def drawn_tree(draw: random.Random) -> dict[str, Any]:
    """A LLaVA in a layout; a third or so of them fit."""
    stages = draw.randint(1, 4)
    encoders = draw.choice([0, 0, 1])
    parallel: dict[str, Any] = {
        "tensor_model_parallel_size": draw.choice([1, 2, 2, 3, 4]),
        "pipeline_model_parallel_size": stages,
        "encoder_pipeline_model_parallel_size": encoders,
        "num_layers_in_last_pipeline_stage": draw.choice([None, None, draw.randint(1, 3)]),
        "sequence_parallel": draw.random() < 0.3,
        "image_encoder": draw.choice([{}, {"layout": "tensor"}, {"layout": "tensor", "tensor_model_parallel_size": draw.randint(1, 4)}]),
    }
    head_count = draw.choice([2, 4, 4, 6, 12])
    foundation = language_model(
        **{**decoder_sizes(draw), "num_attention_heads": head_count, "num_query_groups": draw.choice([1, 2, head_count])}
    )
    model = {
        "model_type": "llava",
        "image_encoder": {"type": "siglip", **siglip_sizes(draw)},
        "image_projector": {"type": "mlp"},
        FOUNDATION: {**foundation, "num_layers": draw.randint(1, 8), "untie_embeddings_and_output_weights": draw.random() < 0.5},
    }
    return {"model": model, "parallel": parallel}


def accepted(seed: int, number: int, registry: Registry) -> Iterator[Composition]:
    draw = random.Random(seed)
    for _ in range(number):
        try:
            yield composition_from(drawn_tree(draw), registry, world_size=None)
        except ConfigError:
            continue


def build_all(seed: int, number: int) -> Sequence[str]:
    """What happened to every composition that was accepted: the first rank of every pipeline stage is built."""
    registry = Registry.discover()
    return [built_or_error(composition, registry) for composition in accepted(seed, number, registry)]


def built_or_error(composition: Composition, registry: Registry) -> str:
    parallel = composition.run.parallel
    tensor, pipeline = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    try:
        for stage in range(pipeline):
            become_rank(stage * tensor, tensor=tensor, pipeline=pipeline)
            OmniModelProvider(composition=composition, registry=registry, device=META)()
    except Exception as error:
        return f"{composition.resolved}: {error!r}"
    return ""


def test_what_is_accepted_can_be_built() -> None:
    (results,) = run_ranks(build_all, 1, 5, 250)
    assert not any(results), "\n".join(filter(None, results))
    assert len(results) > 20


# ---- the layouts of the other tests


@pytest.mark.parametrize("model", MODELS)
def test_layouts_that_equal_one_process_are_accepted(model: str) -> None:
    composition = MODELS[model](tied=False, freeze=False)
    train = composition.run.train.model_copy(update={"global_batch_size": 24, "micro_batch_size": 1})
    run = composition.run.model_copy(update={"train": train})
    sizes = {name: values for name, values in DIMENSIONS.items() if name not in ("recompute", "tied", "freeze")}
    fixed = {"recompute": ("none",), "tied": (False,), "freeze": ("nothing",)}
    for layout in map(layout_of, all_rows({**sizes, **fixed, **ENCODERS[model]}, is_valid)):
        findings = Findings(Provenance())
        check_layout(layout.settings(run), composition.slots, layout.world_size, findings)
        assert not findings.issues, f"{layout}: {findings.issues}"
