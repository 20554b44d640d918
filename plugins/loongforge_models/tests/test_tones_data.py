"""The sounds are what their names and the answers say, and are the same every time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loongforge_models.tones.prepare import prepare
from loongforge_models.tones.questions import SCALE
from loongforge_models.tones.sounds import MAX_SECONDS, NOTES, RATE, beeps, melody
from scipy.io import wavfile

from loongforge_core.config.check import load_composition
from loongforge_core.data.conversations import ConversationFiles
from loongforge_core.data.training_data import TrainingData
from loongforge_core.errors import DataError
from loongforge_core.registry import Registry

FILES = ("train.jsonl", "test.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones") / "data"
    prepare(folder)
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def blasts(samples: np.ndarray) -> list[np.ndarray]:
    """The parts of a sound that are louder than the noise in it, found without knowing how it was made."""
    window = RATE // 100
    loudness = np.convolve(np.abs(samples), np.ones(window) / window, mode="same")
    loud = np.concatenate([[False], loudness > 0.15 * loudness.max(), [False]])
    edges = np.flatnonzero(np.diff(loud.astype(int)))
    return [samples[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True) if end - start > RATE // 50]


def pitch(samples: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), n=RATE))
    return float(power[:2300].argmax())  # in hertz: overtones are weaker, but may be many


def heard(path: Path) -> list[str]:
    """The note nearest to the pitch of every blast, in order."""
    rate, samples = wavfile.read(path)
    assert rate == RATE and samples.dtype == np.int16 and samples.ndim == 1
    pitches = [pitch(blast) for blast in blasts(samples / 32768)]
    return [min(NOTES, key=lambda note: abs(np.log(NOTES[note] / found))) for found in pitches]


def test_a_sound_is_what_its_question_s_answer_says(folder: Path) -> None:
    answers = {line["audios"][0]: line for name in FILES for line in lines(folder / name) if line["kind"] in ("notes", "beeps")}
    chosen = [answers[name] for name in sorted(answers)[::13]]
    assert Counter(line["kind"] for line in chosen).keys() == {"notes", "beeps"} and len(chosen) > 150
    for line in chosen:
        found, answer = heard(folder / line["audios"][0]), line["messages"][1]["content"]
        assert (" ".join(found) if line["kind"] == "notes" else str(len(found))) == answer, line["audios"]


def test_pairs_and_texts_are_answered_rightly(folder: Path) -> None:
    for line in lines(folder / "test.jsonl"):
        question, answer = (message["content"] for message in line["messages"])
        assert question.count("<audio>") == len(line.get("audios", []))
        if line["kind"] == "higher":
            (first,), (second,) = (heard(folder / name) for name in line["audios"])
            assert answer == ("first" if NOTES[first] > NOTES[second] else "second") and first != second
        elif line["kind"] == "text":
            word, note = question.removesuffix("?").split()
            assert answer == SCALE[(SCALE.index(note) + {"After": 1, "Before": -1}[word]) % 7]


def test_kinds_are_mixed(folder: Path) -> None:
    train, test = (lines(folder / name) for name in FILES)
    assert Counter(line["kind"] for line in train) == {"notes": 4000, "beeps": 2500, "higher": 2500, "text": 1000}
    assert Counter(line["kind"] for line in test) == {"notes": 280, "beeps": 200, "higher": 200, "text": 14}
    assert {line["kind"] for line in train[:20]} == {"notes", "beeps", "higher", "text"}  # shuffled
    for kind, answers in (("beeps", 5), ("higher", 2)):
        counts = Counter(line["messages"][1]["content"] for line in test if line["kind"] == kind)
        assert len(counts) == answers and max(counts.values()) < 1.3 * 200 / answers, "guessing gets no further than chance"


def test_held_out_sounds_occur_in_no_training_line(folder: Path) -> None:
    used = [{name for line in lines(folder / file) for name in line.get("audios", [])} for file in FILES]
    assert not used[0] & used[1]
    assert used[0] | used[1] == {f"sounds/{path.name}" for path in (folder / "sounds").iterdir()}
    assert len({(folder / name).read_bytes() for name in used[0] | used[1]}) == len(used[0] | used[1])


def test_no_two_sounds_of_the_same_notes_are_alike() -> None:
    first, second = (melody("CE", seed) for seed in ("one", "two"))
    assert len(first) != len(second) and np.abs(first).max() != np.abs(second).max()
    assert max(len(beeps(5, str(seed))) for seed in range(100)) <= MAX_SECONDS * RATE


def test_the_same_files_every_time(folder: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "again")
    for path in (*FILES, *(f"sounds/{sound.name}" for sound in (folder / "sounds").iterdir())):
        assert (tmp_path / "again" / path).read_bytes() == (folder / path).read_bytes(), path


def test_the_same_files_on_any_machine() -> None:
    """Drawn once with this release; a sine's last bits may differ."""
    samples = melody("CEG", "fixed")
    assert len(samples) == 12514
    np.testing.assert_allclose(
        samples[[0, 3000, 7000, 12000]], [-0.0064055619, -0.1415170911, -0.1695483817, -0.0035311926], atol=1e-6, rtol=0
    )


def test_a_second_call_does_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    prepare(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("loongforge_models.tones.prepare.write_sounds", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "data")
    assert not list(tmp_path.iterdir())
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something else; the tones data set needs"):
        prepare(tmp_path)


# -------------------------------------------------------------------------------------------------------- the whole path


@pytest.fixture(scope="module")
def data(folder: Path) -> TrainingData:
    registry = Registry.discover()
    overrides = [f"data.path={folder}/train.jsonl", f"data.eval_path={folder}/test.jsonl"]
    return TrainingData(load_composition("tones", overrides, registry=registry), registry)


def test_samples_with_two_one_and_no_sounds_of_unequal_length_mix_in_a_batch(data: TrainingData) -> None:
    (batch,) = data.batches(0)
    sounds = batch.items["audio"]
    assert len({size for size in sounds.sizes}) > 20
    owners = Counter(batch.placements["audio"].sample_N.tolist())
    assert any(row not in owners for row in range(batch.num_samples))
    tokens = sum(data.maker.composition.item_grid("audio", size)[0] for size in sounds.sizes)
    assert tokens == owners.total() == len(batch.placements["audio"].position_N)
    assert {len(data.conversations[index].items) for index in range(200)} == {0, 1, 2}


def test_every_line_fits(data: TrainingData, folder: Path) -> None:
    for conversation in list(ConversationFiles([folder / "test.jsonl"], ["audio"])):
        sample = data.maker.sample(conversation)
        assert sample.loss_mask.sum() >= 2 and len(sample) <= 60
