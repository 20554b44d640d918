"""`loss.png` and `predictions.png`: what a run did, to look at.

matplotlib is imported when a picture is drawn, without a display.
"""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loongforge_core.component import Processor
from loongforge_core.errors import DataError
from loongforge_core.generate.evaluate import UNNAMED_KIND, Prediction, exact_match
from loongforge_core.media.images import open_rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_loss", "draw_predictions"]

INK, GREY, LIGHT, BLUE, GREEN, RED = "#1f2933", "#7b8794", "#e4e7eb", "#2563eb", "#15803d", "#dc2626"
WRONG_CARD, ITEM_CARD = "#fef2f2", "#f5f7fa"

COLUMNS, ROWS = 8, 5
WRONG_SHARE = 0.6
"""At most this share of the cards goes to wrong answers, so that a bad model's picture also shows what it can do."""
CARD_WIDTH, CARD_HEIGHT, ITEM_HEIGHT, MARGIN = 1.7, 2.05, 1.0, 0.1
"""In inches."""
ITEMS_SHOWN = 4


def draw_loss(metrics: Path, picture: Path, title: str, *, evaluations: Path | None = None) -> None:
    """The loss of every step of a `metrics.jsonl`, smoothed over it, the learning rate behind, and the loss of an `evaluations.jsonl`."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["loss"] is not None]  # a batch without a target token has none, nor has a skipped step
    steps = np.array([line["step"] for line in lines])
    loss = np.array([line["loss"] for line in lines])
    figure, axes = canvas(8.0, 4.5)
    rate = axes.twinx()
    rate.fill_between(steps, [line["learning_rate"] for line in lines], color=LIGHT, alpha=0.7, linewidth=0)
    rate.set_ylim(bottom=0)
    rate.set_ylabel("learning rate", color=GREY)
    rate.tick_params(colors=GREY, length=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    axes.set_zorder(rate.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot(steps, loss, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smoothed(loss), color=BLUE, linewidth=2)
    held_out = held_out_losses(evaluations) if evaluations and evaluations.exists() else {}
    if held_out:
        axes.plot(list(held_out), list(held_out.values()), color=RED, marker="o", markersize=4, linewidth=1)
    if loss.min() > 0 and loss.max() > 10 * loss.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel("loss per target token", color=INK)
    axes.grid(axis="y", color=LIGHT, linewidth=0.8)
    for side in (*axes.spines.values(), *rate.spines.values()):
        side.set_visible(False)
    axes.set_position((0.1, 0.12, 0.79, 0.72))
    axes.text(0, 1.12, title, transform=axes.transAxes, fontsize=15, fontweight="bold", color=INK)
    said = f"loss {loss[0]:.3g} to {smoothed(loss)[-1]:.3g} in {steps[-1]} steps"
    axes.text(0, 1.05, said, transform=axes.transAxes, fontsize=10, color=GREY)
    if held_out:
        lowest = min(held_out, key=lambda step: held_out[step])
        said = f"held-out loss, lowest {held_out[lowest]:.3g} after step {lowest}"
        axes.text(1, 1.05, said, transform=axes.transAxes, fontsize=10, color=RED, ha="right")
    save(figure, picture)


def held_out_losses(evaluations: Path) -> dict[int, float]:
    """By step; without those that are not finite."""
    lines = [json.loads(line) for line in evaluations.read_text(encoding="utf-8").splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["loss"] is not None}


def draw_predictions(
    predictions: Sequence[Prediction], picture: Path, title: str, processors: Mapping[str, Processor[Any]] | None = None
) -> None:
    """Cards with items, question, answer and truth; wrong ones first, in red; every kind has its share.

    `processors`, by modality, may know how to show items that are no images.
    """
    chosen = choose(predictions, COLUMNS * ROWS)
    rows = -(-len(chosen) // COLUMNS)
    header = 0.8
    width, height = COLUMNS * CARD_WIDTH, rows * CARD_HEIGHT + header
    figure, axes = canvas(width, height)
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)  # inches from the top
    wrong = sum(not one.is_correct for one in predictions)
    shares = [f"{kind} {found['exact_match']:.1%} of {found['samples']}" for kind, found in exact_match(predictions).items()]
    axes.text(MARGIN, 0.3, title, fontsize=16, fontweight="bold", color=INK, va="center")
    axes.text(MARGIN, 0.6, "exact match:  " + "   ·   ".join(shares), fontsize=10.5, color=GREY, va="center")
    axes.text(
        width - MARGIN, 0.6, f"{wrong} wrong of {len(predictions)}", fontsize=10.5, color=RED if wrong else GREEN, va="center", ha="right"
    )
    for place, one in enumerate(chosen):
        shown = [(modality, path, picture_of(modality, Path(path), processors or {})) for modality, path in one.items[:ITEMS_SHOWN]]
        draw_card(axes, one, shown, left=place % COLUMNS * CARD_WIDTH, top=place // COLUMNS * CARD_HEIGHT + header)
    save(figure, picture)


Shown = tuple[str, str, np.ndarray | None]
"""Modality and path of an item, and what there is to see of it."""


def draw_card(axes: Axes, one: Prediction, items: Sequence[Shown], *, left: float, top: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    pad = MARGIN / 2
    middle, inner = left + CARD_WIDTH / 2, CARD_WIDTH - 2 * MARGIN
    box = FancyBboxPatch(
        (left + pad, top + pad),
        CARD_WIDTH - 2 * pad,
        CARD_HEIGHT - 2 * pad,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor="white" if one.is_correct else WRONG_CARD,
        edgecolor=LIGHT if one.is_correct else RED,
        linewidth=1 if one.is_correct else 1.6,
    )
    axes.add_patch(box)
    text = without_tags(one)
    if one.items:
        draw_items(axes, items, left=left + MARGIN, top=top + MARGIN, width=inner)
        if len(one.items) > len(items):
            more = f"+{len(one.items) - len(items)}"
            axes.text(left + MARGIN + inner, top + MARGIN, more, fontsize=8, color=GREY, ha="right", va="top", zorder=3)
        axes.text(middle, top + 1.3, shortened(text, 24), fontsize=9, color=GREY, ha="center", va="center")
    else:
        lines = "\n".join(textwrap.wrap(text, 18, max_lines=5, placeholder=" …"))
        axes.text(middle, top + 0.65, lines, fontsize=16 if len(text) <= 10 else 9, color=INK, ha="center", va="center")
    answer = f"{shortened(one.answer, 20) or '(nothing)'} {'✓' if one.is_correct else '✗'}"
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": "bold"}
    axes.text(middle, top + 1.56, answer, fontsize=14 if len(answer) <= 12 else 8.5, color=GREEN if one.is_correct else RED, **style)
    if one.is_correct:
        axes.text(middle, top + 1.83, shortened(one.kind or UNNAMED_KIND, 24), fontsize=7.5, color=GREY, ha="center", va="center")
    else:
        truth = f"truth: {shortened(one.truth, 20)}"
        axes.text(middle, top + 1.83, truth, fontsize=10 if len(truth) <= 16 else 7.5, color=INK, **style)


def draw_items(axes: Axes, items: Sequence[Shown], *, left: float, top: float, width: float) -> None:
    """Side by side, each as large as its share of the width allows."""
    share = width / len(items)
    for place, (modality, path, pixels) in enumerate(items):
        middle, room = left + (place + 0.5) * share, share - 0.06
        if pixels is None:
            name = "\n".join(textwrap.wrap(Path(path).name, max(6, int(18 / len(items))), max_lines=4))
            axes.text(middle, top + ITEM_HEIGHT / 2, f"{modality}\n{name}", fontsize=8, color=INK, ha="center", va="center")
            continue
        scale = min(room / pixels.shape[1], ITEM_HEIGHT / pixels.shape[0])
        half_width, half_height = pixels.shape[1] * scale / 2, pixels.shape[0] * scale / 2
        centre = top + ITEM_HEIGHT / 2
        extent = (middle - half_width, middle + half_width, centre + half_height, centre - half_height)
        axes.imshow(pixels, cmap="magma", extent=extent, interpolation="nearest", aspect="auto", zorder=2)


def choose(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """At most `count`: wrong ones first, then right ones, each in turn from every kind."""
    wrong = in_turn([one for one in predictions if not one.is_correct])
    right = in_turn([one for one in predictions if one.is_correct])
    num_wrong = min(len(wrong), max(int(count * WRONG_SHARE), count - len(right)))
    return [*wrong[:num_wrong], *right[: count - num_wrong]]


def in_turn(predictions: Sequence[Prediction]) -> list[Prediction]:
    """One of each kind, then the next of each; a kind's own are spread over all that it has."""
    by_kind: dict[str, list[Prediction]] = {}
    for one in predictions:
        by_kind.setdefault(one.kind, []).append(one)
    mixed = [[kind[place] for place in np.random.default_rng(0).permutation(len(kind))] for kind in by_kind.values()]
    return [one for turn in zip_longest(*mixed) for one in turn if one is not None]


def picture_of(modality: str, path: Path, processors: Mapping[str, Processor[Any]]) -> np.ndarray | None:
    """What the modality's processor shows of a file; otherwise the image that it is, if it is one."""
    try:
        preview = processors[modality].preview(path) if modality in processors else None
    except DataError:  # the answer is there, its item no longer
        preview = None
    return opened(path) if preview is None else preview


def opened(path: Path) -> np.ndarray | None:
    """Pixels `[H, W, 3]`; None for what is not an image, whatever its modality is called."""
    try:
        image = open_rgb(path)
    except DataError:
        return None
    image.thumbnail((256, 256))
    return np.asarray(image)


def without_tags(one: Prediction) -> str:
    text = one.question
    for tag in {f"<{modality}>" for modality, _ in one.items}:
        text = text.replace(tag, " ")
    return text.strip()


def shortened(text: str, length: int) -> str:
    text = " ".join("".join(letter if letter.isprintable() or letter.isspace() else "�" for letter in text).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a twentieth of the run around each. Where it begins, and falls fast, over as many after as there are before."""
    half = max(1, len(values) // 40)
    return np.array([values[place - min(half, place) : place + min(half, place) + 1].mean() for place in range(len(values))])


def canvas(width: float, height: float) -> tuple[Any, Axes]:
    """A figure and its axes, `width` x `height` inches, off screen and outside pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", dpi=110)
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def save(figure: Any, picture: Path) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    for text in (text for axes in figure.axes for text in axes.texts):
        text.set_parse_math(False)  # a dollar in an answer begins no formula
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # an answer may be in any script
        figure.savefig(picture)
