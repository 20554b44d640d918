"""Reading a Hugging Face folder of 2 GB into a model, against reading the same bytes; and the memory that it needs at its peak.

The folder is in bfloat16, in shards of half a gigabyte. Read from the page cache, what is timed is what we do; read from the disk, what
a user waits for. The model's memory is allocated and not yet touched when reading begins for the first time, so the peak's growth is the
shard itself and what is needed beside it. The times of several ranks are those of the slowest, all reading at the same time.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import distributed

from benchmarks.memory import peak_growth
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import BuildContext
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.groups import component_groups, initialise_groups
from loongforge_core.parallel.initialise import initialise
from loongforge_core.parallel.launch import run_ranks
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.layouts import Layout
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.load import import_model

FOUNDATION = {
    "type": "qwen2",
    "num_layers": 16,
    "hidden_size": 2048,
    "ffn_hidden_size": 5632,
    "num_attention_heads": 16,
    "num_query_groups": 4,
    "vocab_size": 65_537,
    "untie_embeddings_and_output_weights": True,
}
LARGEST_TENSOR = 65_537 * 2048 * 2
GB, MB = 1000**3, 1000**2


def composition() -> Composition:
    return composition_from({"model": {"foundation": FOUNDATION}, "train": {"precision": "bf16"}}, Registry.discover())


def unfilled(layout: Layout) -> OmniCombinationModel:
    """The model's part on this rank: memory allocated, nothing drawn."""
    plan = replace(composition(), run=layout.settings(composition().run))
    initialise_groups(plan.run.parallel, seed=1)
    provider = OmniModelProvider(composition=plan, registry=Registry.discover())
    context: BuildContext = provider.context(component_groups(), None, None, None)
    return provider.build(context)


def seconds(work: Callable[[], object]) -> float:
    """Of the slowest rank; all begin together."""
    distributed.barrier()
    start = time.perf_counter()
    work()
    distributed.barrier()
    return time.perf_counter() - start


def write_folder(folder: Path) -> tuple[float, int]:
    """Seconds that the export took, and its bytes."""
    model = unfilled(Layout())
    for parameter in model.parameters():
        parameter.data.view(torch.int16).random_(0, 2**14)  # any bits, none of them a NaN
    took = seconds(lambda: export_hf(model.components(), composition(), Registry.discover(), folder, max_shard_bytes=GB // 2))
    return took, sum(file.stat().st_size for file in folder.iterdir())


@dataclass(frozen=True)
class Measured:
    """One rank's."""

    shard: int
    growth: int
    first: float
    cached: tuple[float, float]
    """Shortest import, shortest read."""
    cold: tuple[float, float]
    drawing: float


def measure(layout: Layout, folder: Path, runs: int) -> Measured:
    model, registry, plan = unfilled(layout), Registry.discover(), composition()
    components = model.components()
    buffer = bytearray(4 * 1024**2)

    def read() -> None:
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass

    def fill() -> None:
        import_model(folder, components, plan, registry)

    def forget() -> None:
        """The files are on the disk alone. Those that the page cache has not brought there yet stay."""
        if distributed.get_rank() == 0:
            for file in folder.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def shortest(before: Callable[[], None]) -> tuple[float, float]:
        times: list[tuple[float, float]] = []
        for _ in range(runs):
            before()
            imported = seconds(fill)
            before()
            times.append((imported, seconds(read)))
        return min(imported for imported, _ in times), min(read for _, read in times)

    first: list[float] = []
    growth = peak_growth(lambda: first.append(seconds(fill)))
    cached, cold = shortest(lambda: None), shortest(forget)
    drawing = seconds(lambda: initialise(components, seed=1))
    return Measured(sum(parameter.nbytes for parameter in model.parameters()), growth, first[0], cached, cold, drawing)


def main(*, runs: int = 3) -> None:
    print("import-hf, ours : reading the same files; peak memory in the shard's")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "hf"
        ((took, size),) = run_ranks(write_folder, 1, folder)
        print(f"{size / GB:.2f} GB, largest tensor {LARGEST_TENSOR / MB:.0f} MB; export-hf took {took:.1f} s", flush=True)
        for layout in (Layout(), Layout(tensor=2)):
            for rank, each in enumerate(run_ranks(measure, layout.world_size, layout, folder, runs)):
                cached, cold = (f"{ours / theirs:5.2f}  {ours:5.2f} s : {theirs:.2f} s" for ours, theirs in (each.cached, each.cold))
                print(f"{f'{layout}, rank {rank}':24} page cache {cached}   disk {cold}", flush=True)
                beyond = (each.growth - each.shard) / MB
                print(f"{'':24} at the peak {beyond:.0f} MB beyond its shard of {each.shard / MB:.0f} MB", end="   ")
                print(f"into untouched memory {each.first:.2f} s, drawing initial values instead {each.drawing:.1f} s", flush=True)


if __name__ == "__main__":
    main()
