"""A step's numbers depend on the global batch, not on how it is cut; what cannot be learned from is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from loongforge_core.config.composition import Composition
from loongforge_core.data.training_data import TrainingData
from loongforge_core.errors import ConfigError, LoongForgeError
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry
from loongforge_core.train.step import StepResult, Trainer, build_trainer

Compose = Callable[..., Composition]

pytestmark = pytest.mark.usefixtures("one_process")


def trainer_of(composition: Composition, registry: Registry) -> Trainer:
    return build_trainer(composition, [OmniModelProvider(composition=composition, registry=registry)()])


def results_of(composition: Composition, registry: Registry, steps: int) -> list[StepResult]:
    trainer, data = trainer_of(composition, registry), TrainingData(composition, registry)
    return [trainer.step(data.batches(step)) for step in range(steps)]


def numbers(results: Sequence[StepResult]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([each.loss for each in results]), torch.tensor([each.grad_norm for each in results])


@pytest.mark.parametrize("size", [1, 2])
def test_the_micro_batch_size_changes_no_number(compose: Compose, registry: Registry, size: int) -> None:
    """Of eight samples, with answers of 1 to 14 letters, three have no image: at size 1 whole micro-batches have none."""
    whole = results_of(compose("train.steps=10"), registry, 10)
    pieces = results_of(compose("train.steps=10", f"train.micro_batch_size={size}"), registry, 10)
    (loss, norm), (loss_of_pieces, norm_of_pieces) = numbers(whole), numbers(pieces)
    torch.testing.assert_close(loss_of_pieces, loss, rtol=1e-5, atol=0)  # I1
    torch.testing.assert_close(norm_of_pieces, norm, rtol=1e-4, atol=0)
    assert [each.tokens for each in pieces] == [each.tokens for each in whole]
    assert len({each.tokens for each in whole}) > 1 and {each.samples for each in whole} == {8}


@pytest.mark.parametrize("size", [8, 4])
def test_packing_changes_no_number(compose: Compose, registry: Registry, size: int) -> None:
    """Samples that share a row do not see each other, and each counts its positions from its own beginning."""
    padded = results_of(compose("train.steps=10"), registry, 10)
    packed = results_of(compose("train.steps=10", f"train.micro_batch_size={size}", "data.packing=true"), registry, 10)
    (loss, norm), (loss_of_packed, norm_of_packed) = numbers(padded), numbers(packed)
    torch.testing.assert_close(loss_of_packed, loss, rtol=1e-5, atol=0)  # I1
    torch.testing.assert_close(norm_of_packed, norm, rtol=1e-4, atol=0)
    assert [(each.tokens, each.samples) for each in packed] == [(each.tokens, each.samples) for each in padded]


def test_the_loss_is_the_mean_over_target_tokens(compose: Compose, registry: Registry) -> None:
    composition = compose("train.micro_batch_size=2")
    trainer, data = trainer_of(composition, registry), TrainingData(composition, registry)
    batches = data.batches(0)
    with torch.no_grad():
        losses = [trainer.models[0](batch)[batch.loss_mask_bs.bool()] for batch in batches]
    result = trainer.step(batches)
    assert result.loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)
    assert result.tokens == sum(map(len, losses))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(compose: Compose, registry: Registry, precision: str) -> None:
    results = results_of(compose(f"train.precision={precision}", "train.steps=60", "data.augment={}"), registry, 60)
    assert results[-1].loss < 0.6 * results[0].loss
    assert results[-1].learning_rate < results[2].learning_rate == 4e-3


def test_a_batch_without_a_target_changes_nothing(compose: Compose, registry: Registry) -> None:
    composition = compose()
    trainer, data = trainer_of(composition, registry), TrainingData(composition, registry)
    trainer.step(data.batches(0))
    before = [parameter.clone() for parameter in trainer.models[0].parameters()]
    masked = [replace(batch, loss_mask_bs=torch.zeros_like(batch.loss_mask_bs)) for batch in data.batches(1)]
    result = trainer.step(masked)
    assert (result.loss, result.grad_norm, result.tokens, result.samples) == (None, None, 0, 8)
    assert all(map(torch.equal, before, trainer.models[0].parameters()))
    after = trainer.step(data.batches(2))
    assert after.loss is not None and after.learning_rate == pytest.approx(4e-3)  # the schedule counts every step


def test_some_micro_batches_may_have_no_target(compose: Compose, registry: Registry) -> None:
    composition = compose("train.micro_batch_size=4")
    first, second = TrainingData(composition, registry).batches(1)
    masked = replace(first, loss_mask_bs=torch.zeros_like(first.loss_mask_bs))
    both = [trainer_of(composition, registry).step(batches) for batches in ([masked, second], [second])]
    assert both[0].loss == both[1].loss and both[0].grad_norm == both[1].grad_norm and both[0].tokens == both[1].tokens


def test_gradients_are_clipped_only_where_asked(compose: Compose, registry: Registry) -> None:
    clipped, free = (results_of(compose(f"train.clip_grad={limit}"), registry, 4) for limit in (0.01, 0.0))
    assert clipped[0].grad_norm == free[0].grad_norm > 0.01
    assert clipped[3].loss != free[3].loss


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_numbers_that_are_not_finite_stop_the_run(compose: Compose, registry: Registry, what: str) -> None:
    composition = compose()
    trainer, data = trainer_of(composition, registry), TrainingData(composition, registry)
    trainer.step(data.batches(0))
    if what == "loss":
        next(trainer.models[0].parameters()).data.fill_(float("nan"))
    else:
        next(trainer.models[0].parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(LoongForgeError, match=f"step 2: the {what} is nan|step 2: the {what} is inf"):
        trainer.step(data.batches(1))


def test_random_numbers_of_a_step_follow_from_its_number(compose: Compose, registry: Registry) -> None:
    composition = compose()
    trainer, data = trainer_of(composition, registry), TrainingData(composition, registry)
    drawn = []
    trainer.models[0].register_forward_hook(lambda *_: drawn.append(torch.rand(1).item()))
    for step in range(2):
        trainer.step(data.batches(step))
    torch.rand(5)  # whatever else draws in between
    other = trainer_of(composition, registry)
    other.scheduler.step(1)
    other.models[0].register_forward_hook(lambda *_: drawn.append(torch.rand(1).item()))
    other.step(data.batches(1))
    assert drawn[0] != drawn[1] == drawn[2]


def test_an_encoder_alone_cannot_be_trained(compose: Compose, registry: Registry) -> None:
    composition = compose()
    encoder = {"image_encoder": composition.slots["image_encoder"]}
    alone = replace(composition, slots=encoder)
    with pytest.raises(ConfigError, match=r"model: an encoder alone has no loss"):
        trainer_of(alone, registry)
