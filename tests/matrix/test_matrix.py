"""Every combination of components that the interfaces allow builds, trains a step, saves and loads; the others are refused with a reason.

`make test-matrix` tries all of them; otherwise a seeded sample, in which every component is.
"""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from compositions import TINY, Triple, modality_of, pairs, reasons, triples
from questions import written

from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint.load import load_checkpoint
from loongforge_core.train.checkpoint.record import Record, model_of, numbers_of
from loongforge_core.train.checkpoint.save import save_checkpoint
from loongforge_core.train.step import Trainer, build_trainer

SAMPLE = 12
"""Combinations that every run of the tests tries; more where some component would be in none."""

registry = Registry.discover()


def fitting() -> list[Triple]:
    return [triple for triple in triples() if not reasons(triple, registry)]


def sampled() -> list[Triple]:
    """Those that fit, in a seeded order, until there are enough of them and every component has been seen."""
    shuffled = fitting()
    random.Random(8).shuffle(shuffled)
    seen: set[str] = set()
    chosen: list[Triple] = []
    for triple in shuffled:
        names = {triple.encoder, triple.projector, triple.backbone}
        if len(chosen) < SAMPLE or names - seen:
            chosen.append(triple)
            seen |= names
    return chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "triple" in metafunc.fixturenames:
        chosen = fitting() if metafunc.config.getoption("--whole-matrix") else sampled()
        metafunc.parametrize("triple", chosen, ids=map(str, chosen))


@pytest.mark.parametrize("kind", TINY)
def test_every_component_is_in_some_pair(kind: Any) -> None:
    assert {getattr(triple, kind) for triple in pairs(registry)} == set(TINY[kind])


@pytest.mark.parametrize("kind", TINY)
def test_every_component_has_a_tiny_size(kind: Any) -> None:
    assert TINY[kind] and not [name for name, tiny in TINY[kind].items() if not tiny]


def test_every_component_fits_with_some_others() -> None:
    assert {triple.encoder for triple in fitting()} == set(TINY["encoder"])
    assert {triple.projector for triple in fitting()} == set(TINY["projector"])
    assert {triple.backbone for triple in fitting()} == set(TINY["backbone"])


NEEDS = {"frame_stack": "only frames in a row can", "intern_mlp": "in rows and columns", "patch_merger": "in blocks of 2 x 2"}
"""What the projectors say that do not take features however they lie."""


def test_what_does_not_fit_is_refused_with_both_sides_of_the_misfit() -> None:
    """The key, whose features they are, how they lie, what the projector needs: sounds have no rows and columns, images are no row."""
    refused = {(each.encoder, each.projector): reasons(each, registry) for each in triples() if reasons(each, registry)}
    images = {encoder for encoder in TINY["encoder"] if modality_of(encoder, registry) == "image"}
    sounds = set(TINY["encoder"]) - images
    assert refused.keys() == {
        *((encoder, "frame_stack") for encoder in images),
        *((encoder, projector) for encoder in sounds for projector in ("intern_mlp", "patch_merger")),
    }
    for (encoder, projector), said in refused.items():
        modality = modality_of(encoder, registry)
        config = registry.load(registry.component("encoder", encoder), "config")(**TINY["encoder"][encoder])
        grid = " x ".join(map(str, config.token_grid(config.typical_item_size)))
        *levels, lie = said
        assert lie.startswith(f"model.{modality}_projector: does not fit {modality}_encoder ({encoder}): ")
        assert f"lie {grid}" in lie and NEEDS[projector] in lie
        number = f"takes no levels, and {modality}_encoder ({encoder}) emits {config.num_levels}"
        assert levels == ([f"model.{modality}_projector.type: {number}"] if config.num_levels else [])


def test_the_page_of_components_is_up_to_date() -> None:
    """`python docs/write_components.py` writes it."""
    docs = Path(__file__).parents[2] / "docs"
    assert runpy.run_path(str(docs / "write_components.py"))["page"](registry) == (docs / "components.md").read_text()


def test_a_combination_trains_saves_and_loads(triple: Triple, tmp_path: Path) -> None:
    """Samples with one, two and no items; every parameter that trains has a finite gradient, and none of them is nothing but zero."""
    composition = written(triple, registry, tmp_path)
    with single_process():
        trainer, data = trainer_of(composition), TrainingData(composition, registry)
        trainer.forward_backward(data.batches(0))
        check_gradients(trainer)
        result = trainer.step(data.batches(0))
        assert result.loss is not None and result.loss < 50
        folder = save_checkpoint(tmp_path / "run", trainer, record_of(composition, data))
        again = trainer_of(composition)
        load_checkpoint(folder, again)
        for (name, ours), theirs in zip(trainer.models[0].state_dict().items(), again.models[0].state_dict().values(), strict=True):
            assert not isinstance(ours, torch.Tensor) or torch.equal(ours, theirs), name
        assert again.step(data.batches(1)) == trainer.step(data.batches(1))


def trainer_of(composition: Composition) -> Trainer:
    return build_trainer(composition, [OmniModelProvider(composition=composition, registry=registry)()])


def record_of(composition: Composition, data: TrainingData) -> Record:
    return Record(step=1, model=model_of(composition), numbers=numbers_of(composition, data), plugins=())


def check_gradients(trainer: Trainer) -> None:
    trained = {name: parameter for name, parameter in trainer.models[0].named_parameters() if parameter.requires_grad}
    assert not (wrong := [name for name, parameter in trained.items() if not parameter.main_grad.isfinite().all()]), wrong
    assert not (zero := [name for name, parameter in trained.items() if not parameter.main_grad.any()]), f"no gradient reached {zero}"
