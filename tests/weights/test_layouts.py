"""Folders in every layout: each rank reads its own slices, and what the ranks write together is what one process writes, byte for byte."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import loongforge_models
import pytest
import torch
from models import EXPERTS
from torch import Tensor, distributed

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.bookkeeping import pieces
from loongforge_core.parallel.groups import initialise_groups
from loongforge_core.parallel.launch import RankError, run_ranks
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.layouts import Layout
from loongforge_core.testing.reference import redraw
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.load import import_model, load_pretrained

TOKENIZER = Path(loongforge_models.__file__).parent / "digits" / "tokenizer"

ENCODER = {"num_layers": 2, "hidden_size": 24, "ffn_hidden_size": 40, "num_attention_heads": 4, "image_size": 8, "patch_size": 4}
FOUNDATION = {
    "type": "qwen2",
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 265,
}

MODELS: dict[str, dict[str, Any]] = {
    "a LLaVA": {"image_encoder": {"type": "siglip"}, "foundation": {}},
    "tied": {"image_encoder": {"type": "siglip"}, "foundation": {"untie_embeddings_and_output_weights": False}},
    "a folder per slot": {"image_encoder": {"type": "siglip", "final_norm": True}, "foundation": {}},
    "experts": {"image_encoder": {"type": "siglip"}, "foundation": {**EXPERTS, "mtp_num_layers": 1}},
    "no published format": {"image_encoder": {"type": "unpublished"}, "foundation": {"type": "own"}},
}

MEETINGS = [
    ("a LLaVA", Layout(data=2)),
    ("a LLaVA", Layout(tensor=2)),
    ("a LLaVA", Layout(pipeline=2)),
    ("a LLaVA", Layout(tensor=2, pipeline=2)),
    ("a LLaVA", Layout(tensor=2, encoders={"image_encoder": 2})),
    ("tied", Layout(pipeline=2)),
    ("tied", Layout(tensor=2, pipeline=2)),
    ("tied", Layout(pipeline=3, encoder_stage=True)),
    ("a folder per slot", Layout(data=2, tensor=2)),
    ("experts", Layout(data=2, expert=2)),
    ("experts", Layout(tensor=2, pipeline=2, sequence_parallel=True, expert=2, expert_tensor=1)),
    ("no published format", Layout(tensor=2, pipeline=2)),
]


def installed() -> Registry:
    """With an encoder and a language model that their author published no format for."""
    registry = Registry.discover()
    registry.register(replace(registry.component("encoder", "siglip"), name="unpublished", weights=""))
    registry.register(replace(registry.component("backbone", "qwen2"), name="own", weights=""))
    return registry


def composition_of(name: str, **foundation: Any) -> Composition:
    own = MODELS[name]
    slots = {
        "image_encoder": {**ENCODER, **own["image_encoder"]},
        "image_projector": {"type": "mlp"},
        "foundation": {**FOUNDATION, **own["foundation"], **foundation},
    }
    return composition_from({"model": slots}, installed())


def model_in(layout: Layout, composition: Composition) -> OmniCombinationModel:
    initialise_groups(layout.settings(composition.run).parallel, seed=1)
    return OmniModelProvider(composition=replace(composition, run=layout.settings(composition.run)), registry=installed())()


@dataclass(frozen=True)
class Held:
    """What a rank has of a tensor."""

    name: str
    shape: tuple[int, ...]
    slices: tuple[slice, ...]
    value: Tensor


def held_by(model: OmniCombinationModel) -> list[Held]:
    return [
        Held(f"{slot}.{piece.name}", piece.shape, piece.slices, piece.tensor.clone())
        for slot, component in model.components().items()
        for piece in pieces(component)
    ]


def write_source(composition: Composition, folder: Path) -> list[Held]:
    """One process's export of values that no initial value equals."""
    model = model_in(Layout(), composition)
    redraw(model)
    for component in model.components().values():
        for piece in pieces(component):
            if (rows := component.published_rows(piece.name)) is not None:
                piece.tensor[rows:].zero_()
    export_hf(model.components(), composition, installed(), folder, tokenizer=TOKENIZER, max_shard_bytes=40_000)
    return held_by(model)


def through(composition: Composition, layout: Layout, source: Path, target: Path) -> list[Held]:
    """What this rank reads of `source`, which is written again."""
    model = model_in(layout, composition)
    import_model(source, model.components(), composition, installed())
    export_hf(model.components(), composition, installed(), target, tokenizer=TOKENIZER, max_shard_bytes=40_000)
    return held_by(model)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check_together(ranks: list[list[Held]], one: list[Held]) -> None:
    """Every rank's parts are one process's, and nothing is on no rank. Rows that pad the vocabulary are zero."""
    wholes: dict[str, Tensor] = {}
    for each in one:
        wholes.setdefault(each.name, torch.full(each.shape, torch.nan))[each.slices] = each.value
    seen = {name: torch.zeros_like(whole, dtype=torch.bool) for name, whole in wholes.items()}
    for each in (part for rank in ranks for part in rank):
        expected = wholes[each.name][each.slices]
        real = each.value[: len(expected)]
        assert torch.equal(real, expected), each.name
        assert not each.value[len(expected) :].any(), f"padding of {each.name}"
        seen[each.name][each.slices] = True
    assert all(mask.all() for mask in seen.values()), [name for name, mask in seen.items() if not mask.all()]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, list[Held]]]:
    folders = {name: tmp_path_factory.mktemp("hf") / "source" for name in MODELS}
    return {name: (folder, run_ranks(write_source, 1, composition_of(name), folder)[0]) for name, folder in folders.items()}


@pytest.mark.parametrize("name, layout", MEETINGS, ids=str)
def test_in_and_out(name: str, layout: Layout, sources: Any, tmp_path: Path) -> None:
    source, one = sources[name]
    check_together(run_ranks(through, layout.world_size, composition_of(name), layout, source, tmp_path / "hf"), one)
    before, after = files(source), files(tmp_path / "hf")
    assert before.keys() == after.keys()
    assert [file for file in before if before[file] != after[file]] == []
    assert sum(file.endswith(".safetensors") for file in before) > 2, "several shards"


# ------------------------------------------------------------------------------------------------------- slot by slot


def draw(composition: Composition) -> list[Held]:
    return held_by(model_in(Layout(), composition))


def start_from(composition: Composition, layout: Layout) -> list[Held]:
    """Only what no folder has is drawn."""
    run = layout.settings(composition.run)
    initialise_groups(run.parallel, seed=1)
    read = partial(load_pretrained, composition=composition, registry=installed())
    return held_by(OmniModelProvider(composition=replace(composition, run=run), registry=installed(), fill=read)())


@pytest.mark.parametrize("name", ["a folder per slot", "no published format"])
def test_a_slot_starts_from_its_own_folder(name: str, sources: Any) -> None:
    """Other stages' tensors are not left over, and slots that are not named keep their initial values."""
    source, filled = sources[name]
    composition = composition_of(name, pretrained=str(source / "foundation"))
    (one,) = run_ranks(start_from, 1, composition, Layout())
    values = {(each.name, str(each.slices)): each.value for each in filled}
    same = {each.name for each in one if torch.equal(each.value, values[each.name, str(each.slices)])}
    assert same == {each.name for each in one if each.name.startswith("foundation.")}
    (drawn,) = run_ranks(draw, 1, composition)
    assert all(torch.equal(each.value, initial.value) for each, initial in zip(one, drawn, strict=True) if each.name not in same)
    check_together(run_ranks(start_from, 4, composition, Layout(tensor=2, pipeline=2)), one)


# ------------------------------------------------------------------------------------------------------ when it fails


def export_with(trouble: str, folder: Path) -> str:
    """What this rank is told."""
    layout, composition = Layout(tensor=2), composition_of("a LLaVA")
    model = model_in(layout, composition)
    if distributed.get_rank() == 0 and trouble == "no room":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        export_hf(model.components(), composition, installed(), folder, tokenizer=None if trouble == "no tokenizer" else TOKENIZER)
    except (WeightsError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_first_rank_that_cannot_write_tells_the_others(tmp_path: Path) -> None:
    first, second = run_ranks(export_with, 2, "no room", tmp_path / "hf", timeout_s=60)
    assert first.startswith("OSError: [Errno 27]")
    assert second == "WeightsError: rank 0 failed: OSError(27, 'File too large')"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "trouble, expected", [("no tokenizer", "needs a tokenizer"), ("a file of others", "no earlier export wrote: notes")]
)
def test_what_is_wrong_is_said_on_every_rank(trouble: str, expected: str, tmp_path: Path) -> None:
    if trouble == "a file of others":
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf" / "notes").write_text("mine")
    first, second = run_ranks(export_with, 2, trouble, tmp_path / "hf", timeout_s=60)
    assert first == second
    assert first.startswith("WeightsError: ")
    assert expected in first


def export_without_a_stage(folder: Path) -> None:
    layout, composition = Layout(pipeline=2), composition_of("a LLaVA")
    model = model_in(layout, composition)
    if distributed.get_rank():
        model.components()["foundation"].decoder.layers = torch.nn.ModuleList()
    export_hf(model.components(), composition, installed(), folder, tokenizer=TOKENIZER)


def test_a_tensor_that_no_rank_has(tmp_path: Path) -> None:
    with pytest.raises(RankError, match=r"names our foundation\.decoder\.layers\.1\.input_layernorm\.weight, which is not here"):
        run_ranks(export_without_a_stage, 2, tmp_path / "hf", timeout_s=60)
