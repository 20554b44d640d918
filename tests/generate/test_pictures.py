"""Pictures are drawn of anything a run leaves; what is wrong is red and comes first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loongforge_core.component import ProcessedItem, Processor
from loongforge_core.errors import DataError
from loongforge_core.generate.evaluate import Prediction
from loongforge_core.generate.pictures import COLUMNS, ROWS, choose, draw_loss, draw_predictions, opened, smoothed


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def reddish(path: Path) -> int:
    """How many pixels are a saturated red."""
    red, green, blue = np.moveaxis(pixels(path), -1, 0)
    return int(((red > 180) & (green < 80) & (blue < 80)).sum())


def predictions(num_right: int, num_wrong: int, kind: str = "") -> list[Prediction]:
    return [Prediction(f"{n}?", "1", "1" if n < num_right else "2", kind, ()) for n in range(num_right + num_wrong)]


@pytest.fixture
def items(tmp_path: Path) -> dict[str, Path]:
    Image.new("RGB", (40, 20), "blue").save(tmp_path / "wide.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "wide.png").read_bytes()[:50])
    np.save(tmp_path / "signal.npy", np.zeros(8))
    return {name: tmp_path / name for name in ("wide.png", "broken.png", "signal.npy", "missing.wav")}


def test_items_of_every_kind(items: dict[str, Path], tmp_path: Path) -> None:
    given = tuple(("image", str(path)) for path in items.values())
    cards = [Prediction("<image>?", "1", "1", "one", given[:1]), Prediction("<image>?", "", "1", "all", (*given, given[0]))]
    cards.append(Prediction("user: a long question\nassistant: " + "and so on " * 30, "a long answer " * 10, "x" * 200, "", ()))
    draw_predictions(cards, tmp_path / "drawn" / "all.png", "title")
    blue = (pixels(tmp_path / "drawn" / "all.png") == (0, 0, 255)).all(axis=-1)
    columns = np.flatnonzero(blue.any(axis=0))
    rows = np.flatnonzero(blue[:, columns[-1]])
    assert (np.diff(columns) > 1).any(), "one card each has the image"
    last = columns[np.flatnonzero(np.diff(columns) > 1)[-1] + 1 :]
    assert len(last) / len(rows) == pytest.approx(2, rel=0.05), "an image keeps its proportions"


def test_an_image_is_shown_upright_and_small(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (800, 400), "blue").save(tmp_path / "turned.jpg", exif=exif)
    shown = opened(tmp_path / "turned.jpg")
    assert shown is not None and shown.shape == (256, 128, 3)


def test_dollars_are_no_formulas(tmp_path: Path) -> None:
    draw_predictions([Prediction("$ $?", "$ $", "1$ $", "$ $", ())], tmp_path / "dollars.png", "$ $")
    assert pixels(tmp_path / "dollars.png").std() > 5


class Loudness(Processor[Any]):
    """Shows a file of numbers as a picture twice as wide as it is high: silent on the left, loud on the right."""

    def __call__(self, path: Path, augmentation: object = None) -> ProcessedItem:
        raise NotImplementedError

    def preview(self, path: Path) -> np.ndarray:
        if not path.exists():
            raise DataError(f"{path}: no such signal")
        return np.repeat([[0] * 10 + [255] * 10], 10, axis=0).astype(np.uint8)


def test_a_processor_shows_what_is_no_image(items: dict[str, Path], tmp_path: Path) -> None:
    processors = {"signal": Loudness(None, "signal")}
    for name, path in {"shown": items["signal.npy"], "named": items["missing.wav"]}.items():
        draw_predictions(
            [Prediction("<signal>?", "1", "1", "one", (("signal", str(path)),))], tmp_path / f"{name}.png", "title", processors
        )
    quiet, loud = ((pixels(tmp_path / "shown.png") == colour).all(axis=-1) for colour in ((0, 0, 3), (251, 252, 191)))  # magma's ends
    assert quiet.sum() == pytest.approx(loud.sum(), rel=0.1) and loud.sum() > 1000
    assert np.flatnonzero(quiet.any(axis=0)).max() < np.flatnonzero(loud.any(axis=0)).min()
    assert not (pixels(tmp_path / "named.png") == (251, 252, 191)).all(axis=-1).any(), "a file that is gone is named"


def test_only_wrong_answers_are_red(tmp_path: Path) -> None:
    for name, cards in {"right": predictions(3, 0), "wrong": predictions(2, 1)}.items():
        draw_predictions(cards, tmp_path / f"{name}.png", "title")
    assert reddish(tmp_path / "right.png") == 0
    assert reddish(tmp_path / "wrong.png") > 200


def test_wrong_ones_first_and_every_kind_has_its_share() -> None:
    count = COLUMNS * ROWS
    given = [*predictions(100, 3, "a"), *predictions(100, 2, "b"), *predictions(100, 0, "c")]
    chosen = choose(given, count)
    assert [one.is_correct for one in chosen] == [False] * 5 + [True] * (count - 5)
    right = [one.kind for one in chosen[5:]]
    assert {right.count(kind) for kind in "abc"} <= {11, 12}


@pytest.mark.parametrize(("num_right", "num_wrong", "shown_wrong"), [(100, 100, 24), (2, 100, 38), (0, 100, 40), (0, 3, 3), (50, 0, 0)])
def test_a_bad_model_also_shows_what_it_can_do(num_right: int, num_wrong: int, shown_wrong: int) -> None:
    chosen = choose(predictions(num_right, num_wrong), 40)
    assert sum(not one.is_correct for one in chosen) == shown_wrong
    assert len(chosen) == min(40, num_right + num_wrong)


@pytest.mark.parametrize("loss", [[2.0], [3.0, 2.0, 0.1, 0.0], list(np.geomspace(5, 0.001, 300))])
def test_loss(loss: list[float], tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": value, "learning_rate": 1e-3 / step}) for step, value in enumerate(loss, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    draw_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png", "title", evaluations=tmp_path / "evaluations.jsonl")
    assert pixels(tmp_path / "loss.png").std() > 5
    without = reddish(tmp_path / "loss.png")
    rows = [{"step": 1, "loss": None}, {"step": len(loss), "loss": 1.5}]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png", "title", evaluations=tmp_path / "evaluations.jsonl")
    assert reddish(tmp_path / "loss.png") > without


def test_smoothing_keeps_a_constant_and_the_mean_of_noise() -> None:
    assert smoothed(np.full(100, 3.0)) == pytest.approx(np.full(100, 3.0))
    noise = np.random.default_rng(0).normal(size=1000)
    assert smoothed(noise).std() < noise.std() / 4
