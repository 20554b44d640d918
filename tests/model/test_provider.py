"""The provider with Megatron's schedules alone, as somebody with a training loop of their own uses it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from samples import IMAGE

from loongforge_core.config.composition import Composition
from loongforge_core.model.batch import Batch
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.registry import Registry

Compose = Callable[..., Composition]


# A program of its own, so that what it imports can be told.
TRAINING_LOOP = """
import sys
import torch
from functools import partial
from loongforge_core.config.check import load_composition
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import Batch, Placement
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry import Registry
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import get_model_config

torch.set_num_threads(1)
registry = Registry.discover()
composition = load_composition(sys.argv[1], registry=registry)

def micro_batch(images):  # a sample with so many images, and one without
    tokens = [5] + [-1] * 4 * images + [6, 7, 8]
    length = len(tokens)
    token_ids = torch.tensor([tokens, [9, 10, 11] + [0] * (length - 3)])
    places = (token_ids == -1).nonzero(as_tuple=True)
    return Batch(
        token_ids_bs=token_ids,
        labels_bs=token_ids.roll(-1, 1).clamp(min=0),
        loss_mask_bs=torch.tensor([[0.0] * (length - 4) + [1.0] * 3 + [0.0], [1.0, 1.0] + [0.0] * (length - 2)]),
        position_ids=torch.arange(length).expand(2, length),
        items={"image": Items({"pixel_values": torch.randn(images, 3, 8, 8)}, ((8, 8),) * images)} if images else {},
        placements={"image": Placement(*places)} if images else {},
    )

def loss(output, batch, model):
    total, count = model.module.recipe.loss(output, batch.loss_mask_bs)
    return total, count.int(), {"loss": (total / count).item()}

def forward_step(batches, model):
    batch = next(batches)
    return model(batch), partial(loss, batch=batch, model=model)

with single_process():
    provider = OmniModelProvider(composition=composition, registry=registry)
    module = provider(pre_process=True, post_process=True)
    config = get_model_config(module)
    config.finalize_model_grads_func = finalize_model_grads
    model = DistributedDataParallel(config, DistributedDataParallelConfig(), module)
    optimizer = get_megatron_optimizer(OptimizerConfig(optimizer="adam", lr=1e-2), [model])
    losses = []
    for _ in range(4):
        model.zero_grad_buffer()
        optimizer.zero_grad()
        reports = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter([micro_batch(images) for images in (2, 0, 1)]),
            model=[model],
            num_microbatches=3,
            seq_length=16,
            micro_batch_size=2,
            forward_only=False,
        )
        losses.append(sum(report["loss"] for report in reports))
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                gradient = parameter.main_grad
                assert gradient.isfinite().all() and (gradient != 0).any(), name
        optimizer.step()
    assert losses[3] < losses[0], losses

tools = [name for name in sys.modules if name.startswith(("loongforge_core.train", "loongforge_core.data", "loongforge_core.generate"))]
assert not tools, tools
print("trained")
"""


def test_megatrons_schedules_drive_it_and_no_tool_of_ours_is_needed(compose: Compose, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(dict(compose().resolved)))
    code = f"import sys; sys.path[:] = {sys.path!r}\n{TRAINING_LOOP}"
    found = subprocess.run([sys.executable, "-c", code, str(config)], capture_output=True, text=True)
    assert found.stdout == "trained\n", found.stdout + found.stderr


def test_a_stage_holds_its_part(compose: Compose, registry: Registry) -> None:
    provider = OmniModelProvider(composition=compose(foundation={"untie_embeddings_and_output_weights": False}), registry=registry)
    first, last, middle = provider(True, False), provider(False, True), provider(False, False)
    assert list(first.components()) == ["image_encoder", "image_projector", "foundation"]
    assert list(last.components()) == list(middle.components()) == ["foundation"]
    held = [{name.split(".")[0] for name, _ in stage.foundation.named_parameters()} for stage in (first, middle, last)]
    assert held == [{"embedding", "decoder"}, {"decoder"}, {"decoder", "output_layer"}]
    assert first.pre_process and not first.post_process and last.post_process and not last.pre_process
    embedding, output = first.shared_embedding_or_output_weight(), last.shared_embedding_or_output_weight()
    assert embedding is not None and output is not None and middle.shared_embedding_or_output_weight() is None
    assert first.share_embeddings_and_output_weights and not middle.share_embeddings_and_output_weights


def test_stages_one_after_another_equal_the_whole(compose: Compose, registry: Registry, batch_of: Callable[..., Batch]) -> None:
    """Both stages hold both layers here, because the layers of a stage follow from the groups; so the whole is run twice as deep."""
    provider = OmniModelProvider(composition=compose(), registry=registry)
    first, last, whole = provider(True, False), provider(False, True), provider()
    batch = batch_of([5, IMAGE, 6, 7], [8, 9, 10])
    with torch.no_grad():
        hidden_sbh = first(batch)
        assert hidden_sbh.shape == (batch.token_ids_bs.shape[1], 2, 16)
        last.set_input_tensor(hidden_sbh)
        losses = last(batch)
        whole.foundation.decoder.layers.extend(last.foundation.decoder.layers)
        torch.testing.assert_close(losses, whole(batch))


def test_it_builds_without_memory(compose: Compose, registry: Registry) -> None:
    """A 7-billion-parameter decoder on the meta device, frozen as its slots say."""
    size = {
        "num_layers": 28,
        "hidden_size": 3584,
        "ffn_hidden_size": 18944,
        "num_attention_heads": 28,
        "num_query_groups": 4,
        "vocab_size": 152064,
    }
    composition = compose(foundation={**size, "freeze": ["embedding.*"]})
    model = OmniModelProvider(composition=composition, registry=registry, device=torch.device("meta"))()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.foundation.parameters()) > 7e9
    assert not model.foundation.word_embeddings.weight.requires_grad


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_the_runs_or_the_callers(compose: Compose, registry: Registry, precision: str, dtype: torch.dtype) -> None:
    composition = compose(train={"precision": precision})
    assert {p.dtype for p in OmniModelProvider(composition=composition, registry=registry)().parameters()} == {dtype}
    doubled = OmniModelProvider(composition=composition, registry=registry, dtype=torch.float64)()
    assert {p.dtype for p in doubled.parameters()} == {torch.float64}


def test_bfloat16_parameters_leave_rotary_frequencies_exact(compose: Compose, registry: Registry) -> None:
    """Rounded to bfloat16, a frequency would be off by a radian at some hundred positions."""
    frequencies = [
        OmniModelProvider(composition=compose(train={"precision": precision}), registry=registry)().foundation.rotary.inverse_frequency
        for precision in ("fp32", "bf16")
    ]
    assert frequencies[1].dtype == torch.float32 and torch.equal(*frequencies)


def test_what_the_training_side_knows_reaches_the_components(compose: Compose, registry: Registry) -> None:
    """Vocabulary padded for the tensor size, longest sequence, precision of the loss; without a job of four ranks."""
    group = SimpleNamespace(size=lambda: 4, rank=lambda: 1)
    composition = compose(foundation={"vocab_size": 101}, train={"seq_length": 77})
    provider = OmniModelProvider(composition=composition, registry=registry, cross_entropy_dtype=torch.float64)
    context = provider.context(SimpleNamespace(tp=group, pp=group), None, None, None)
    assert (context.padded_vocab_size, context.max_sequence_length, context.cross_entropy_dtype) == (104, 77, torch.float64)
    assert (context.stage.pre_process, context.stage.post_process) == (False, False)


def test_the_loss_has_the_precision_asked_for(compose: Compose, registry: Registry, batch_of: Callable[..., Batch]) -> None:
    provider = OmniModelProvider(composition=compose(), registry=registry, cross_entropy_dtype=torch.float64)
    assert provider()(batch_of([5, 6, 7])).dtype == torch.float64
