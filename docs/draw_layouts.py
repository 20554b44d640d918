"""Draws docs/pictures/layouts.png: the losses of two runs of the same composition in different layouts, and how far they differ.

loongforge train digits output_dir=runs/one
loongforge train digits --nproc 4 parallel.tensor_model_parallel_size=2 parallel.pipeline_model_parallel_size=2 output_dir=runs/four
python docs/draw_layouts.py runs/one runs/four
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from loongforge_core.generate.pictures import BLUE, GREY, INK, LIGHT, RED, canvas, save

PICTURE = Path(__file__).parent / "pictures" / "layouts.png"
FLOAT32 = 2.0**-24
"""Half of the distance between neighbouring float32 numbers, relatively."""
ALLOWED, STEPS = 1e-5, 10
"""I1: the relative difference of losses that two layouts may have over the first steps."""


def losses(run: str) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (Path(run) / "metrics.jsonl").read_text().splitlines()])


def draw(one: np.ndarray, four: np.ndarray) -> None:
    steps = np.arange(1, len(one) + 1)
    figure, above = canvas(8.0, 5.2)
    below = figure.add_axes((0.115, 0.1, 0.85, 0.22))
    above.set_position((0.115, 0.42, 0.85, 0.42))
    above.plot(steps, one, color=BLUE, linewidth=2.4, alpha=0.6, label="one process")
    above.plot(steps, four, color=RED, linewidth=0.8, label="four: tensor 2 x pipeline 2")
    above.set_ylabel("loss per target token", color=INK)
    above.legend(frameon=False, loc="upper right")
    above.text(0, 1.14, "digits in two layouts", transform=above.transAxes, fontsize=15, fontweight="bold", color=INK)
    said = "the same numbers, until float32's rounding has grown, as it does between any two machines"
    above.text(0, 1.05, said, transform=above.transAxes, fontsize=10, color=GREY)
    below.plot(steps, np.maximum(np.abs(one - four) / one, FLOAT32), color=GREY, linewidth=0.9)
    below.axhline(ALLOWED, color=LIGHT, linewidth=1.5)
    said = f"the most that the first {STEPS} steps may differ"
    below.text(len(one), ALLOWED / 3, said, color=GREY, fontsize=9, ha="right", va="top")
    below.set_ylabel("relative\ndifference", color=INK)
    below.set_xlabel("step", color=INK)
    for axes in (above, below):
        axes.set_yscale("log")
        axes.set_xlim(1, len(one))
        axes.grid(axis="y", color=LIGHT, linewidth=0.6)
        for side in axes.spines.values():
            side.set_visible(False)
    save(figure, PICTURE)


if __name__ == "__main__":
    draw(*(losses(run) for run in sys.argv[1:3]))
