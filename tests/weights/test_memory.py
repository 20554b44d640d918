"""What reading and writing need beside the model itself, measured: the peak of a process that has done nothing else yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.groups import component_groups, initialise_groups
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.layouts import Layout
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.load import import_model
from loongforge_core.weights.tensor_file import BLOCK_BYTES

MB = 1024**2
VOCABULARY, WIDTH = 50_001, 256
LARGEST = VOCABULARY * WIDTH * 4
"""Bytes of the embedding table, 49 MB; the output layer has as many."""
SLACK = 8 * MB
"""Python's own objects, what the allocator keeps, modules that are imported late."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read where Linux says it")


@dataclass(frozen=True)
class Peak:
    """Bytes beyond what the process had before."""

    shard: int
    reading: int
    writing: int


def composition() -> Composition:
    foundation = {
        "type": "qwen2",
        "num_layers": 1,
        "hidden_size": WIDTH,
        "ffn_hidden_size": 512,
        "num_attention_heads": 4,
        "vocab_size": VOCABULARY,
        "untie_embeddings_and_output_weights": True,
    }
    return composition_from({"model": {"foundation": foundation}}, Registry.discover())


def unfilled(layout: Layout) -> OmniCombinationModel:
    """Memory that is allocated and not yet touched is in no peak: reading fills it, so the growth holds the shard too."""
    plan = composition()
    plan = replace(plan, run=layout.settings(plan.run))
    initialise_groups(plan.run.parallel, seed=1)
    provider = OmniModelProvider(composition=plan, registry=Registry.discover())
    return provider.build(provider.context(component_groups(), None, None, None))


def write_source(folder: Path) -> None:
    model = unfilled(Layout())
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    export_hf(model.components(), composition(), Registry.discover(), folder)


def growth(work: Callable[[], object]) -> int:
    """Pages of mapped files count as well as the process's own."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def peaks(layout: Layout, source: Path, target: Path) -> Peak:
    model, plan, registry = unfilled(layout), composition(), Registry.discover()
    reading = growth(lambda: import_model(source, model.components(), plan, registry))
    writing = growth(lambda: export_hf(model.components(), plan, registry, target))
    return Peak(sum(parameter.nbytes for parameter in model.parameters()), reading, writing)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "source"
    run_ranks(write_source, 1, folder)
    return folder


@pytest.mark.parametrize("layout", [Layout(), Layout(tensor=2), Layout(pipeline=2)], ids=str)
def test_reading_needs_the_shard_and_a_block(layout: Layout, source: Path, tmp_path: Path) -> None:
    """The promise is one tensor; it is a block, of which there is none where nothing is converted or cut by columns."""
    for rank, peak in enumerate(run_ranks(peaks, layout.world_size, layout, source, tmp_path / "hf")):
        assert peak.reading > 0.9 * peak.shard, "the measure sees what is filled"
        assert peak.reading < peak.shard + BLOCK_BYTES + SLACK < peak.shard + LARGEST, f"rank {rank}"


def test_writing_needs_one_tensor_on_the_first_rank_and_next_to_nothing_on_others(source: Path, tmp_path: Path) -> None:
    """A tensor that others have a part of: the whole, and the part that arrives."""
    first, second = run_ranks(peaks, 2, Layout(tensor=2), source, tmp_path / "hf")
    assert LARGEST < first.writing < 1.5 * LARGEST + SLACK
    assert second.writing < SLACK
    (alone,) = run_ranks(peaks, 1, Layout(), source, tmp_path / "alone")
    assert alone.writing < SLACK, "what is here already is written from where it is"
