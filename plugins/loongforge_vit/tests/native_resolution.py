"""Towers for items of any size beside their references: a tower's class in transformers is our encoder and our projector together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from loongforge_projectors.patch_merger.config import PatchMergerConfig
from loongforge_vit.native_resolution.config import NativeResolutionConfig
from torch import Tensor, nn

from loongforge_core.component import Shape
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import BuildContext, Features, Items
from loongforge_core.model.auto import AutoModel, spec_of
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement
from loongforge_core.parallel.groups import component_groups
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import Ours, ours, redraw
from loongforge_core.testing.sizes import names_on_disk, published_config
from loongforge_core.testing.waiting import META, never_waiting
from loongforge_core.weights.config_keys import config_fields, config_problems
from loongforge_core.weights.holding import holdings
from loongforge_core.weights.table import Table, combine

SIZES: tuple[Shape, ...] = ((1, 4, 6), (1, 12, 2), (3, 6, 10), (1, 2, 2), (2, 8, 8))
"""Wide and tall, one block alone, and two videos; frames of 8 x 8 make whole windows of 4 x 4, the others do not."""


def items(config: NativeResolutionConfig, sizes: Sequence[Shape] = SIZES, seed: int = 3) -> Items:
    """Random patches, as a processor would emit them."""
    width = config.num_channels * config.temporal_patch_size * config.patch_size**2
    pixels = torch.randn(sum(map(config.num_tokens, sizes)), width, generator=torch.Generator().manual_seed(seed))
    return Items({"pixel_values": pixels}, tuple(sizes))


def grid_thw(items: Items) -> Tensor:
    return torch.tensor(items.sizes)


def row_by_row(blocks_Nh: Tensor, sizes: Sequence[Shape], merge: int = 2) -> Tensor:
    """What a reference emits block by block, in the order of ours."""
    pieces = blocks_Nh.split([frames * rows * columns for frames, rows, columns in sizes])
    return torch.cat(
        [
            piece.view(frames, rows // merge, columns // merge, merge, merge, -1).permute(0, 1, 3, 2, 4, 5).flatten(0, 4)
            for piece, (frames, rows, columns) in zip(pieces, sizes, strict=True)
        ]
    )


@contextmanager
def pair(
    encoder: NativeResolutionConfig,
    projector: PatchMergerConfig,
    architecture: str,
    *,
    projector_table: Table | None = None,
    device: torch.device | None = None,
) -> Iterator[Ours]:
    """Both, unfilled, with the table of the reference's own folder; the projector's part of it may be another than the usual one."""
    registry, configs = Registry.discover(), {"image_encoder": encoder, "image_projector": projector}
    with single_process():
        context = BuildContext(groups=component_groups(), **({"device": device} if device else {}))
        parts = {slot: AutoModel.from_config(config, context, registry) for slot, config in configs.items()}
        tables = {slot: registry.load(spec_of(config, registry), "weights")(config) for slot, config in configs.items()}
        tables["image_projector"] = projector_table or tables["image_projector"]
        nested = [replace(table, model_type="").under(theirs="", ours=slot, section="") for slot, table in tables.items()]
        whole = combine(nested, model_type=tables["image_encoder"].model_type, architectures=(architecture,))
        yield Ours(nn.ModuleDict(parts), parts, configs, whole)


def encode(model: Any, items: Items) -> Features:
    features: Features = model["image_encoder"](items)
    config = model["image_encoder"].config
    assert features.grids == tuple(config.token_grid(size) for size in items.sizes)
    assert features.hidden_NW.shape == (sum(map(config.num_tokens, items.sizes)), config.feature_size)
    assert len(features.levels) == config.num_levels
    return features


def project(model: Any, items: Items) -> Tensor:
    """Embeddings, then those of the levels."""
    projected: Features = model["image_projector"](encode(model, items))
    return torch.cat([projected.hidden_NW, *projected.levels])


# ----------------------------------------------------------------------------------------------------------------- checks


@contextmanager
def filled(config: NativeResolutionConfig, **context: Any) -> Iterator[Any]:
    """The encoder with random weights, the same each time."""
    with ours(config, **context) as built:
        redraw(built.model)
        yield built.model


def random_sizes(number: int, merge: int = 2) -> list[Shape]:
    random = np.random.default_rng(0)
    drawn = random.integers((1, 1, 1), (4, 7, 7), (number, 3))
    return [(int(frames), merge * int(rows), merge * int(columns)) for frames, rows, columns in drawn]


def check_counts(config: NativeResolutionConfig) -> None:
    """As many features as the config says, for 1,000 sizes, fifty items at a time; `encode` compares."""
    sizes = random_sizes(1000)
    with filled(config) as model, torch.no_grad():
        for first in range(0, len(sizes), 50):
            encode({"image_encoder": model}, items(config, sizes[first : first + 50]))


def check_nothing_is_asked(config: NativeResolutionConfig) -> None:
    """On the meta device, whose tensors have no values, all is known that is needed: a device is never waited for."""
    pixels = items(config).inputs["pixel_values"].to(META)
    with ours(config, device=META) as built, never_waiting():
        encode({"image_encoder": built.model}, Items({"pixel_values": pixels}, SIZES))


def check_independence(config: NativeResolutionConfig) -> None:
    """An item's features and levels do not depend on those that are packed with it."""
    together = items(config)
    lengths = [config.num_tokens(size) for size in SIZES]
    with filled(config) as model, torch.no_grad():
        features = model(together)
        for index, (size, pixels) in enumerate(zip(SIZES, together.inputs["pixel_values"].split(lengths), strict=True)):
            alone = model(Items({"pixel_values": pixels}, (size,)))
            for given, packed in zip((alone.hidden_NW, *alone.levels), (features.hidden_NW, *features.levels), strict=True):
                torch.testing.assert_close(given, packed.split(lengths)[index], rtol=0, atol=2e-5)


def check_rotation_in_float32(config: NativeResolutionConfig) -> None:
    """In bfloat16, what attention is given of the first layer are queries and keys rounded once, behind the turn, as in the references."""
    size = (1, 4, 4)
    given: dict[str, Tensor] = {}
    with filled(config, dtype=torch.bfloat16) as model, torch.no_grad():
        attention = model.transformer.layers[0].self_attention
        attention.linear_qkv.register_forward_hook(lambda _, __, output: given.update(projected=output[0]))
        attention.core_attention.register_forward_pre_hook(lambda _, heads: given.update(query=heads[0], key=heads[1]))
        model(items(config, [size]))
    query, key = (heads[-16:] for heads in (given["query"], given["key"]))  # the patches, where a class token is in front of them
    projected = given["projected"].view(-1, config.num_attention_heads, 3, config.head_size)[-16:]
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    frequency = 10_000 ** -(torch.arange(0, config.head_size // 2, 2) / (config.head_size // 2))
    angles = torch.cat((rows.reshape(-1, 1) * frequency, columns.reshape(-1, 1) * frequency), dim=1)
    turns = torch.cat((angles, angles), dim=1)[:, None]
    for turned, plain in ((query, projected[:, :, 0].float()), (key, projected[:, :, 1].float())):
        half = torch.cat((-plain[..., config.head_size // 2 :], plain[..., : config.head_size // 2]), dim=-1)
        exact = plain * turns.cos() + half * turns.sin()
        assert turned.dtype == torch.bfloat16
        # Half of a bfloat16's last place, and as much as float32 may differ before that.
        assert ((turned.float() - exact).abs() <= exact.abs() * 2**-8 * 1.001 + 1e-6).all()


def check_cost(config: NativeResolutionConfig) -> None:
    """At least a token's worth for each token; twice the frames cost twice as much, a frame twice as large more than that."""
    cost, wider, longer = (config.cost(size) for size in ((1, 40, 40), (1, 40, 80), (2, 40, 40)))
    assert config.num_tokens((1, 40, 40)) < cost
    assert longer == pytest.approx(2 * cost)
    assert wider > 2.01 * cost


def check_recomputation(config: NativeResolutionConfig, recompute: str) -> None:
    """The same gradients, from features and levels, whether layers are recomputed or not; with embeddings that need none as well."""
    for frozen in ((), ("patch_embedding", "position_embedding")):
        plain, recomputed = (gradients(config, frozen, recompute=how) for how in ("none", recompute))
        assert plain.keys() == recomputed.keys()
        for name in plain:
            torch.testing.assert_close(recomputed[name], plain[name], msg=lambda said, name=name: f"{name}: {said}")


def gradients(config: NativeResolutionConfig, frozen: Sequence[str], **context: Any) -> dict[str, Tensor]:
    with filled(config, **context) as model:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(tuple(frozen)))
        features = model(items(config))
        every = torch.stack([features.hidden_NW, *features.levels])
        (every * torch.randn(every.shape, generator=torch.Generator().manual_seed(4))).mean().backward()
        found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert all(gradient is not None and gradient.any() for gradient in found.values())
        return found


def check_published_pair(
    encoder: str, projector: str, reference: type[Any], figures: Any, *, parameters: int | None, out_hidden_size: int
) -> None:
    """As the kit's `check_published_size`: two YAML files beside one class of transformers."""
    registry = Registry.discover()
    tower = published_config(f"image_encoder/{encoder}", registry, {})
    assert isinstance(tower, NativeResolutionConfig)
    inferred = {"input_size": tower.feature_size, "hidden_size": out_hidden_size, "num_levels": tower.num_levels}
    merger = published_config(f"image_projector/{projector}", registry, inferred)
    assert isinstance(merger, PatchMergerConfig)
    with torch.device("meta"):
        theirs = reference(figures)
    with pair(tower, merger, reference.__name__, device=torch.device("meta")) as built:
        held = holdings({f"{slot}.": part for slot, part in built.target.items()})
        assert built.table.shapes_on_disk({name: holding.shape for name, holding in held.items()}) == names_on_disk(theirs)
        count = sum(parameter.numel() for parameter in built.model.parameters())
        assert count == sum(parameter.numel() for parameter in theirs.parameters())
        assert parameters in (None, count), f"{encoder} and {projector} have {count:,} parameters, published are {parameters:,}"
        tree = {key: value for key, value in theirs.config.to_dict().items() if key != "model_type"}
        assert not config_problems(built.table.keys, tree, built.config)
        read = config_fields(built.table.keys, tree)
        assert type(tower).model_validate(read["image_encoder"]) == type(tower)(**tower.model_dump(exclude_unset=True))
        assert PatchMergerConfig.model_validate({**merger.model_dump(), **read["image_projector"]}) == merger


# ---------------------------------------------------------------------------------------------------------------- layouts

FOUNDATION = {
    "type": "qwen2",
    "num_layers": 4,
    "hidden_size": 16,
    "ffn_hidden_size": 32,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 61,
    "init_method_std": 0.1,
}
STEPS: tuple[tuple[tuple[Shape, ...], ...], ...] = (
    (((1, 4, 6), (2, 2, 4)), ((1, 2, 2),), ((1, 6, 2),), ((2, 4, 4), (1, 2, 6))),
    ((), ((3, 2, 4),), ((1, 8, 4),), ((1, 2, 2), (1, 4, 2))),
)
"""The items of each micro-batch of each step; one has none."""


def composition(encoder: dict[str, Any], projector: dict[str, Any]) -> Composition:
    slots = {"image_encoder": encoder, "image_projector": projector, "foundation": FOUNDATION}
    # The gradient of a key's bias is nothing but rounding: with the usual 1e-8 Adam would make steps of it.
    train = {"lr": 1e-2, "steps": len(STEPS), "lr_warmup_steps": 1, "adam_eps": 1e-5}
    return composition_from({"model": slots, "train": train}, Registry.discover())


def batches(composition: Composition) -> list[list[Batch]]:
    encoder, projector = (composition.slots[name].config for name in ("image_encoder", "image_projector"))
    return [
        [batch(encoder, projector, sizes, seed=10 * step + index) for index, sizes in enumerate(micro_batches)]
        for step, micro_batches in enumerate(STEPS)
    ]


def batch(encoder: Any, projector: Any, sizes: Sequence[Shape], seed: int) -> Batch:
    """One sample: three tokens, and behind each item's placeholders two more."""
    random = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(0, 61, (3,), generator=random)]
    for size in sizes:
        number = math.prod(projector.token_grid(encoder.token_grid(size)))
        tokens += [torch.full((number,), PLACEHOLDER_ID), torch.randint(0, 61, (2,), generator=random)]
    token_ids_bs = torch.cat(tokens)[None]
    there = token_ids_bs == PLACEHOLDER_ID
    length = token_ids_bs.shape[1]
    return Batch(
        token_ids_bs=token_ids_bs,
        labels_bs=token_ids_bs.roll(-1, 1).clamp(min=0),
        loss_mask_bs=(torch.arange(length) % 3 != 1).float()[None],
        position_ids=torch.arange(length)[None],
        items={"image": items(encoder, sizes, seed)} if sizes else {},
        placements={"image": Placement(*there.nonzero(as_tuple=True))} if sizes else {},
    )
