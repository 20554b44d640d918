"""Forward and backward of every encoder and every family of language models against `transformers` with SDPA (eager where it has no other).

Same weights, inputs and threads; the outputs are compared before anything is timed. `python -m benchmarks.components qwen3 --profile` times
those whose names have `qwen3` in them, and shows where their time goes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from benchmarks.case import Case
from benchmarks.encoders import LEFT_OUT, encoders
from benchmarks.language_models import language_models
from benchmarks.paired import Pairs, profile, time_in_turn
from loongforge_core.testing.reference import save_reference
from loongforge_core.weights.import_hf import import_hf


def compare(case: Case, *, runs: int, profiled: bool) -> Pairs:
    """Prints the times of one case."""
    reference = case.reference.train()
    with case.build() as built, tempfile.TemporaryDirectory() as folder:
        save_reference(reference, Path(folder) / "reference", built.table, built.config)
        import_hf(Path(folder) / "reference", built.target, built.table, built.config)
        their_output = case.run_reference(reference).detach()
        difference = float((case.run_ours(built.model) - their_output).detach().abs().max())
        assert difference < 1e-4 * float(their_output.std()), f"{case.name}: not the same model: outputs differ by {difference:.2g}"
        ours, theirs = step(built.model, case.run_ours), step(reference, case.run_reference)
        pairs = time_in_turn(ours, theirs, runs=runs, clock=time.process_time)
        print(f"{case.name:30} {pairs}   outputs differ by {difference:.1e}", flush=True)
        if profiled:
            profile("ours", ours)
            profile("transformers", theirs)
    return pairs


def step(model: Any, run: Callable[[Any], Tensor]) -> Callable[[], None]:
    def forward_and_backward() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        run(model).square().mean().backward()

    return forward_and_backward


def main(*, runs: int = 15, only: str = "", profiled: bool = False) -> None:
    print("Forward and backward, ours : transformers, processor time of 1 thread, float32; a ratio below 1 means that ours is faster")
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    footnotes: dict[str, list[str]] = {}
    for case in chain(encoders(), language_models()):
        if only in case.name:
            pairs = compare(case, runs=runs, profiled=profiled)
            if min(pairs.ratio_of_medians, pairs.ratio_of_minima) > 1.01:  # by one of the two alone, it is the machine's noise
                footnotes.setdefault(case.footnote, []).append(case.name)
    for why, names in footnotes.items():
        print(f"Slower: {'; '.join(names)}. {why}")
    if not only:
        print(LEFT_OUT)


if __name__ == "__main__":
    main(only=next((word for word in sys.argv[1:] if not word.startswith("-")), ""), profiled="--profile" in sys.argv)
