"""What the judge (`test_conformance.py`) cannot know: how many values a token stands for, what a file may be, what can be learnt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from loongforge_sensor.sensor.config import SensorConfig
from loongforge_sensor.sensor.model import SensorEncoder
from loongforge_sensor.sensor.processor import SensorProcessor
from megatron.core.process_groups_config import ProcessGroupCollection

from loongforge_core import BuildContext, DataError, Items
from loongforge_core.cli.main import main

LENGTHS = (1, 7, 8, 9, 64, 200)


@pytest.fixture
def encoder() -> SensorEncoder:
    torch.manual_seed(0)
    return SensorEncoder(SensorConfig(hidden_size=16), BuildContext(groups=ProcessGroupCollection()))


def waveforms(lengths: tuple[int, ...]) -> Items:
    generator = torch.Generator().manual_seed(0)
    return Items({"values": torch.randn(sum(lengths), generator=generator)}, tuple((length,) for length in lengths))


def test_as_many_tokens_as_the_config_counts(encoder: SensorEncoder) -> None:
    features = encoder(waveforms(LENGTHS))
    assert features.grids == tuple(encoder.config.token_grid((length,)) for length in LENGTHS) == ((1,), (1,), (1,), (2,), (8,), (25,))
    assert features.hidden_NW.shape == (sum(encoder.config.num_tokens((length,)) for length in LENGTHS), encoder.config.feature_size)


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_a_file_becomes_a_normalised_waveform(tmp_path: Path, suffix: str) -> None:
    path, values = tmp_path / f"one{suffix}", np.array([1.0, 2.0, 6.0])
    np.save(path, values) if suffix == ".npy" else np.savetxt(path, values)
    item = SensorProcessor(SensorConfig())(path)
    assert item.size == (3,) and item.inputs["values"].dtype == np.float32
    np.testing.assert_allclose(item.inputs["values"], (values - values.mean()) / values.std(), rtol=1e-6)


def test_a_constant_waveform_is_zero(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.full(5, 3))
    assert not SensorProcessor(SensorConfig())(tmp_path / "one.npy").inputs["values"].any()


def damaged(folder: Path) -> dict[str, Path]:
    """Files that are no waveform, by what is said of them."""
    contents: dict[str, np.ndarray] = {
        r"one row of numbers, got shape \(2, 2\)": np.ones((2, 2)),
        r"one row of numbers, got shape \(0,\)": np.ones(0),
        "not all values are finite": np.array([1.0, np.nan]),
        "Object arrays": np.array([1, "a"], dtype=object),
        "cannot read this waveform.*complex": np.ones(2, dtype=complex),
    }
    paths = {said: folder / f"{number}.npy" for number, said in enumerate(contents)}
    for said, path in paths.items():
        np.save(path, contents[said], allow_pickle=True)
    whole = folder / "whole.npy"
    np.save(whole, np.ones(100))
    files = {"truncated": (folder / "cut.npy", whole.read_bytes()[:200]), "cannot read": (folder / "words.csv", b"a\nb\n")}
    files["expected a .npy or a .csv"] = (folder / "sound.wav", b"")
    for said, (path, content) in files.items():
        path.write_bytes(content)
        paths[said] = path
    return {**paths, "no such waveform": folder / "missing.npy"}


def test_what_is_no_waveform_is_refused_by_name(tmp_path: Path) -> None:
    processor = SensorProcessor(SensorConfig())
    for said, path in damaged(tmp_path).items():
        with pytest.raises(DataError, match=said) as refused:
            processor(path)
        assert str(path) in str(refused.value)


@pytest.mark.slow
def test_a_language_model_learns_through_the_encoder(tmp_path: Path) -> None:
    output = tmp_path / "run"
    torch.set_num_threads(1)
    assert main(["train", "sensor_demo", "train.steps=80", f"output_dir={output}"]) == 0
    losses = [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 80 and losses[-1] < 0.1 * losses[0]
    # One in four, and one in five, is what guessing gets; only the waveform tells.
    exact_match = {kind: result["exact_match"] for kind, result in json.loads((output / "evaluation.json").read_text()).items()}
    assert exact_match["shape"] > 0.6 and exact_match["periods"] > 0.5, exact_match
