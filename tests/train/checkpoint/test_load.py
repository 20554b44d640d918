"""A checkpoint brings a run back exactly; what is damaged is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
import torch
from saved_runs import Saved, save, trainer_of, without_digests

from loongforge_core.config.composition import Composition
from loongforge_core.errors import CheckpointError
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry
from loongforge_core.train.checkpoint.load import load_checkpoint, load_model, reads_common_state_of_0_19
from loongforge_core.train.checkpoint.record import (
    FORMAT,
    RECORD_FILE,
)

Compose = Callable[..., Composition]

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_goes_on_exactly(compose: Compose, registry: Registry, precision: str) -> None:
    saved = save(compose(f"train.precision={precision}", "model.image_encoder.lr=1e-3"), registry)
    resumed = trainer_of(saved.composition, registry)
    assert load_checkpoint(saved.folder, resumed).step == 3
    for step in range(3, 7):
        batches = saved.data.batches(step)
        assert resumed.step(batches) == saved.trainer.step(batches)
    assert all(map(torch.equal, saved.trainer.models[0].parameters(), resumed.models[0].parameters()))


def test_every_parameter_has_a_step_of_its_own(saved: Saved, registry: Registry) -> None:
    """Megatron loads one for all; AdamW would then count it once per parameter."""
    resumed = trainer_of(saved.composition, registry)
    load_checkpoint(saved.folder, resumed)
    (optimizer,) = resumed.optimizer.chained_optimizers
    steps = [state["step"] for state in optimizer.optimizer.state.values()]
    assert len({id(step) for step in steps}) == len(steps) == len(list(optimizer.get_parameters()))
    assert {float(step) for step in steps} == {3.0}


def test_the_model_alone_can_be_loaded(saved: Saved, registry: Registry) -> None:
    model = OmniModelProvider(composition=saved.composition, registry=registry)()
    assert not all(map(torch.equal, model.parameters(), saved.trainer.models[0].parameters()))
    load_model(saved.folder, [model], saved.composition)
    assert all(map(torch.equal, model.parameters(), saved.trainer.models[0].parameters()))


@pytest.mark.parametrize("damage", ["no record", "broken record", "later format", "missing file", "truncated file"])
def test_a_damaged_checkpoint_is_an_error_that_names_it(saved: Saved, registry: Registry, damage: str) -> None:
    without_digests(saved.folder)
    described = saved.folder / RECORD_FILE
    (largest,) = sorted(saved.folder.glob("*.distcp"), key=lambda path: path.stat().st_size)[-1:]
    if damage == "no record":
        described.unlink()
    elif damage == "broken record":
        described.write_text(described.read_text()[:-20])
    elif damage == "later format":
        described.write_text(json.dumps({**json.loads(described.read_text()), "format": FORMAT + 1}))
    elif damage == "missing file":
        largest.unlink()
    else:
        os.truncate(largest, largest.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="step_00000003"):
        load_checkpoint(saved.folder, trainer_of(saved.composition, registry))


def test_a_checkpoint_of_a_later_megatron_says_what_to_install(saved: Saved, registry: Registry) -> None:
    """Megatron-Core 0.19 writes no common.pt and reads both forms; 0.16 reads its own only."""
    without_digests(saved.folder)
    if (saved.folder / "common.pt").exists():
        (saved.folder / "common.pt").unlink()
        with pytest.raises(CheckpointError, match=r"install megatron-core>=0\.19"):
            load_checkpoint(saved.folder, trainer_of(saved.composition, registry))
    else:
        assert reads_common_state_of_0_19()
