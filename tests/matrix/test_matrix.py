"""Every combination of components that the interfaces allow builds, trains a step, saves and loads; the others are refused with a reason.

`make test-matrix` tries all of them; otherwise a seeded sample, in which every component is.
"""

from __future__ import annotations

import json
import random
import runpy
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compositions import TINY, Triple, composition_of, installed, modality_of, reasons, triples
from PIL import Image

from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint import load_checkpoint, save_checkpoint
from loongforge_core.train.record import Record, model_of, numbers_of
from loongforge_core.train.step import Trainer, build_trainer

SAMPLE = 12
"""Combinations that every run of the tests tries; more where some component would be in none."""

registry = Registry.discover()


def sampled() -> list[Triple]:
    """Those that fit, in a seeded order, until there are enough of them and every component has been seen."""
    fitting = [triple for triple in triples() if not reasons(triple, registry)]
    random.Random(8).shuffle(fitting)
    seen: set[str] = set()
    chosen: list[Triple] = []
    for triple in fitting:
        names = {triple.encoder, triple.projector, triple.backbone}
        if len(chosen) < SAMPLE or names - seen:
            chosen.append(triple)
            seen |= names
    return chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "triple" in metafunc.fixturenames:
        chosen = triples() if metafunc.config.getoption("--whole-matrix") else sampled()
        metafunc.parametrize("triple", chosen, ids=map(str, chosen))


@pytest.mark.parametrize("kind", TINY)
def test_every_component_has_a_tiny_size(kind: Any) -> None:
    assert sorted(TINY[kind]) == installed(kind, registry)


def test_every_component_fits_with_some_others() -> None:
    fitting = [triple for triple in triples() if not reasons(triple, registry)]
    assert {triple.encoder for triple in fitting} == set(TINY["encoder"])
    assert {triple.projector for triple in fitting} == set(TINY["projector"])
    assert {triple.backbone for triple in fitting} == set(TINY["backbone"])


def test_the_page_of_components_is_up_to_date() -> None:
    """`python docs/write_components.py` writes it."""
    docs = Path(__file__).parents[2] / "docs"
    assert runpy.run_path(str(docs / "write_components.py"))["page"](registry) == (docs / "components.md").read_text()


def test_a_combination_trains_saves_and_loads(triple: Triple, tmp_path: Path) -> None:
    """Samples with one, two and no items; every parameter that trains has a finite gradient, and none of them is nothing but zero."""
    if said := reasons(triple, registry):
        assert all(len(reason) > 20 for reason in said), "refused without a reason"
        return
    torch.set_num_threads(1)
    composition = written(triple, tmp_path)
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


# ---- data


def written(triple: Triple, folder: Path) -> Composition:
    """The composition on six questions with answers of unequal lengths, and items of unequal sizes."""
    modality = modality_of(triple.encoder, registry)
    write_item = {"image": write_image, "audio": write_sound}[modality]
    lines = []
    for number, items in enumerate((1, 2, 0, 1, 3, 1)):
        names = [f"{number}_{item}{'.png' if modality == 'image' else '.wav'}" for item in range(items)]
        for item, name in enumerate(names):
            write_item(folder / name, np.random.default_rng([number, item]))
        answer = "".join(map(chr, np.random.default_rng(number).integers(32, 126, 40)))
        messages = [{"role": "user", "content": f"<{modality}>" * items + "?"}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages, f"{modality}s": names}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    return composition_of(
        triple,
        registry,
        tokenizer="pkg://loongforge_models/digits/tokenizer",
        data={"path": str(folder / "train.jsonl")},
        train={"global_batch_size": 6, "micro_batch_size": 3, "steps": 4, "lr": 1e-3},
        output_dir=str(folder / "run"),
    )


def write_image(path: Path, random: np.random.Generator) -> None:
    height, width = random.integers(20, 60, 2)
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def write_sound(path: Path, random: np.random.Generator) -> None:
    samples: Sequence[int] = random.integers(-(2**14), 2**14, int(random.integers(4000, 9000)), dtype=np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.asarray(samples).tobytes())
