"""Which parameters train, at which rate: per slot, through the whole schedule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from runs import trainer_of

from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.errors import ConfigError
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry
from loongforge_core.train.step import Trainer
from loongforge_core.train.summary import trainable_table

Compose = Callable[..., Composition]

pytestmark = pytest.mark.usefixtures("one_process")

RATES = ("model.image_encoder.lr=1e-3", "model.image_encoder.weight_decay=0.2", "model.image_projector.freeze=true", "train.min_lr=4e-4")


def rates(trainer: Trainer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter that the optimizer moves, by name."""
    groups = {id(parameter): group for group in trainer.optimizer.param_groups for parameter in group["params"]}
    named = {f"{slot}.{name}": p for slot, part in trainer.models[0].components().items() for name, p in part.named_parameters()}
    assert len(groups) == sum(parameter.requires_grad for parameter in named.values())
    return {name: (groups[id(p)]["lr"], groups[id(p)]["weight_decay"]) for name, p in named.items() if id(p) in groups}


def test_rates_are_the_slots_own_all_through_the_schedule(compose: Compose, registry: Registry) -> None:
    trainer = trainer_of(compose(*RATES), registry)
    seen = []
    for _ in range(9):
        found = rates(trainer)
        encoder = {lr for name, (lr, _) in found.items() if name.startswith("image_encoder.")}
        foundation = {lr for name, (lr, _) in found.items() if name.startswith("foundation.")}
        assert len(encoder) == len(foundation) == 1
        seen.append(foundation.pop())
        assert encoder.pop() == pytest.approx(seen[-1] / 4)
        assert trainer.scheduler.get_lr({}) == seen[-1]
        trainer.scheduler.step(1)
    assert seen[:3] == [0.0, 2e-3, 4e-3] and seen[-1] == pytest.approx(4e-4)


def test_matrices_decay_and_vectors_do_not(compose: Compose, registry: Registry) -> None:
    trainer = trainer_of(compose(*RATES), registry)
    parameters = {f"{slot}.{name}": p for slot, part in trainer.models[0].components().items() for name, p in part.named_parameters()}
    for name, (_, weight_decay) in rates(trainer).items():
        assert not name.startswith("image_projector.")
        matrix = 0.2 if name.startswith("image_encoder.") else 0.05
        assert weight_decay == (matrix if parameters[name].dim() > 1 else 0.0), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weight_decay_is_decoupled(compose: Compose, registry: Registry, precision: str) -> None:
    """Where the gradient is zero, only the decay moves a weight: by lr times weight decay of itself. An L2 penalty would move it by lr."""
    composition = compose(
        f"train.precision={precision}", "train.lr_warmup_steps=0", "train.weight_decay=0.5", "train.lr=0.01", "data.augment={}"
    )
    trainer, data = trainer_of(composition, registry), TrainingData(composition, registry)
    row = trainer.models[0].foundation.word_embeddings.weight[1]  # a byte that occurs nowhere
    before = row.detach().clone()
    trainer.step(data.batches(0))
    torch.testing.assert_close(row.detach(), before * (1 - 0.01 * 0.5))


def test_a_slot_at_rate_zero_stays(compose: Compose, registry: Registry) -> None:
    composition = compose("model.image_encoder.lr=0")
    trainer, data = trainer_of(composition, registry), TrainingData(composition, registry)
    before = {slot: [p.clone() for p in part.parameters()] for slot, part in trainer.models[0].components().items()}
    for step in range(2):
        trainer.step(data.batches(step))
    moved = {slot: not all(map(torch.equal, before[slot], part.parameters())) for slot, part in trainer.models[0].components().items()}
    assert moved == {"image_encoder": False, "image_projector": True, "foundation": True}


def test_a_run_may_end_within_its_warm_up(compose: Compose, registry: Registry) -> None:
    trainer = trainer_of(compose("train.lr_warmup_steps=80"), registry)
    trainer.scheduler.step(8)
    assert trainer.scheduler.get_lr({}) == pytest.approx(4e-3 / 10)


def test_nothing_that_trains_is_an_error(compose: Compose, registry: Registry) -> None:
    frozen = [f"model.{slot}.freeze=true" for slot in ("image_encoder", "image_projector", "foundation")]
    with pytest.raises(ConfigError, match=r"(?s)nothing trains.*model\.foundation: freeze: True"):
        trainer_of(compose(*frozen), registry)


def test_the_table_counts_what_trains(compose: Compose, registry: Registry) -> None:
    composition = compose(*RATES)
    model = OmniModelProvider(composition=composition, registry=registry)()
    lines = {line.split()[0]: line.split() for line in trainable_table(composition, [model]).splitlines()}
    counts = {
        slot: (sum(p.numel() for p in part.parameters()), sum(p.numel() for p in part.parameters() if p.requires_grad))
        for slot, part in model.components().items()
    }
    for slot, (total, trainable) in counts.items():
        assert lines[slot][2:5] == [f"{total:,}", f"{trainable:,}", f"{total - trainable:,}"]
    assert lines["image_encoder"][5:] == ["0.001", "0.2"]
    assert lines["image_projector"][3:] == ["0", lines["image_projector"][2], "-", "-"]
    assert lines["all"][1] == f"{sum(total for total, _ in counts.values()):,}"
