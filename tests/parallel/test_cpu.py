"""Megatron-Core without CUDA: what trains, what resumes, what is the same on several processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
from megatron.core.dist_checkpointing.serialization import (
    get_default_load_sharded_strategy,
    get_default_save_sharded_strategy,
)
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.enums import ModelType
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer import MegatronModule, MLATransformerConfig, TransformerConfig
from megatron.core.transformer.transformer_block import TransformerBlock

from loongforge_core.parallel.launch import run_ranks, single_process
from loongforge_core.parallel.repairs import writing_in_this_process

VOCABULARY, LENGTH, MICRO_BATCHES = 64, 16, 4


class TinyGPT(MegatronModule):
    """Embedding, four decoder layers (RMSNorm, grouped queries, rotary, SwiGLU), output layer."""

    model_type = ModelType.encoder_or_decoder  # asked for by the schedules

    def __init__(self, config: TransformerConfig, num_experts: int | None = None) -> None:
        super().__init__(config=config)
        self.embedding = tensor_parallel.VocabParallelEmbedding(
            VOCABULARY, config.hidden_size, init_method=config.init_method, config=config
        )
        spec = get_gpt_layer_local_spec(num_experts=num_experts, normalization="RMSNorm")
        self.rotary = RotaryEmbedding(config.kv_channels, rotary_percent=1.0)
        self.decoder = TransformerBlock(config, spec)
        self.output = tensor_parallel.ColumnParallelLinear(
            config.hidden_size, VOCABULARY, config=config, init_method=config.init_method, bias=False
        )

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Asked for by the schedules; there is one stage only."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Mean loss of predicting `ids[:, 1:]`."""
        hidden = self.embedding(ids[:, :-1]).transpose(0, 1).contiguous()
        hidden = self.decoder(hidden, attention_mask=None, rotary_pos_emb=self.rotary(hidden.size(0)))
        logits, _ = self.output(hidden)
        return tensor_parallel.vocab_parallel_cross_entropy(logits.float(), ids[:, 1:].t().contiguous()).mean()


SHAPE = {"num_layers": 4, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 4}
UNFUSED = {
    "normalization": "RMSNorm",
    "gated_linear_unit": True,
    "activation_func": torch.nn.functional.silu,
    "add_bias_linear": False,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "use_cpu_initialization": True,
    "masked_softmax_fusion": False,
    "gradient_accumulation_fusion": False,
    "bias_dropout_fusion": False,
}
PRECISIONS: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"bf16": True, "params_dtype": torch.bfloat16}}
RECOMPUTED = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def experts(dispatcher: str) -> dict[str, Any]:
    return {"num_moe_experts": 4, "moe_router_topk": 2, "moe_token_dispatcher_type": dispatcher}


@dataclass
class Trainer:
    model: Any
    optimizer: Any

    def sharded_state(self, *, is_loading: bool) -> dict[str, Any]:
        model = self.model.module.sharded_state_dict()
        return {"model": model, "optimizer": self.optimizer.sharded_state_dict(model, is_loading=is_loading)}

    def load(self, state: dict[str, Any]) -> None:
        self.model.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def step(self, batches: list[torch.Tensor]) -> tuple[float, float]:
        """Mean loss over this process's micro-batches, and the gradient norm."""
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        losses = get_forward_backward_func()(
            forward_step_func=lambda data, model: (model(next(data)), lambda loss: (loss, {"loss": loss.detach().clone()})),
            data_iterator=iter(batches),
            model=[self.model],
            num_microbatches=len(batches),
            seq_length=LENGTH,
            micro_batch_size=batches[0].size(0),
            forward_only=False,
        )
        done, norm, _ = self.optimizer.step()
        assert done
        return torch.stack([loss["loss"] for loss in losses]).mean().item(), float(norm)


def tiny_trainer(*, distributed_optimizer: bool = False, num_experts: int | None = None, **changes: Any) -> Trainer:
    config = TransformerConfig(**{**SHAPE, "num_query_groups": 2, **UNFUSED, **changes})
    torch.manual_seed(7)
    module = TinyGPT(config, num_experts)
    if config.bf16:
        module = module.bfloat16()
    ddp = DistributedDataParallelConfig(
        use_distributed_optimizer=distributed_optimizer, grad_reduce_in_fp32=True, overlap_grad_reduce=False
    )
    model = DistributedDataParallel(config, ddp, module)
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=1e-2,
            bf16=config.bf16,
            params_dtype=config.params_dtype,
            use_distributed_optimizer=distributed_optimizer,
        ),
        [model],
    )
    config.grad_scale_func = optimizer.scale_loss
    config.finalize_model_grads_func = finalize_model_grads
    return Trainer(model, optimizer)


def micro_batches() -> list[torch.Tensor]:
    ids = torch.randint(VOCABULARY, (MICRO_BATCHES, 2, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    return list(ids)


@pytest.mark.parametrize("precision", list(PRECISIONS))
def test_trains_on_one_process(precision: str) -> None:
    with single_process():
        trainer = tiny_trainer(**PRECISIONS[precision])
        losses = [trainer.step(micro_batches())[0] for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]


def losses_and_norms(steps: int, layout: dict[str, int], distributed_optimizer: bool, changes: dict[str, Any]) -> Any:
    """(loss over all ranks, gradient norm) of each step, on this rank of the default process group."""
    parallel_state.initialize_model_parallel(**layout)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    trainer = tiny_trainer(distributed_optimizer=distributed_optimizer, **layout, **changes)
    rank, size = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    results = []
    for _ in range(steps):
        loss, norm = trainer.step(micro_batches()[rank::size])
        total = torch.tensor(loss)
        torch.distributed.all_reduce(total, group=parallel_state.get_data_parallel_group())
        results.append((total.item() / size, norm))
    return results


@pytest.mark.parametrize(
    ("layout", "distributed_optimizer", "changes"),
    [
        ({}, False, {}),
        ({}, True, {}),
        ({"tensor_model_parallel_size": 2}, False, {}),
        ({"tensor_model_parallel_size": 2}, True, RECOMPUTED),
    ],
    ids=["dp2", "dp2-distributed", "tp2", "tp2-distributed-recomputed"],
)
def test_two_processes_equal_one(layout: dict[str, int], distributed_optimizer: bool, changes: dict[str, Any]) -> None:
    (one,) = run_ranks(losses_and_norms, 1, 3, {}, False, {})
    for two in run_ranks(losses_and_norms, 2, 3, layout, distributed_optimizer, changes):
        # Sums are taken in another order: a few units in the last place of fp32, over three steps.
        torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-5, atol=0)


def test_recomputation_repeats_dropout() -> None:
    changes = {"hidden_dropout": 0.2, "attention_dropout": 0.2}
    kept, recomputed = (run_ranks(losses_and_norms, 1, 2, {}, False, c) for c in (changes, {**changes, **RECOMPUTED}))
    assert kept == recomputed


def test_random_states_are_kept_apart(caplog: pytest.LogCaptureFixture) -> None:
    with single_process():
        tracker = tensor_parallel.get_cuda_rng_tracker()
        before = torch.get_rng_state()
        with tracker.fork():
            first = torch.rand(3)
        assert torch.get_rng_state().equal(before)
        with tracker.fork():
            assert not torch.rand(3).equal(first)
    assert not caplog.records


@pytest.mark.parametrize("precision", list(PRECISIONS))
def test_checkpoint_resumes_exactly(precision: str, tmp_path: Path) -> None:
    with single_process():
        trainer = tiny_trainer(**PRECISIONS[precision])
        trainer.step(micro_batches())
        dist_checkpointing.save(trainer.sharded_state(is_loading=False), tmp_path)
        expected = [trainer.step(micro_batches()) for _ in range(2)]

        resumed = tiny_trainer(**PRECISIONS[precision])
        resumed.load(dist_checkpointing.load(resumed.sharded_state(is_loading=True), tmp_path))
        assert [resumed.step(micro_batches()) for _ in range(2)] == expected


def processes_left_by_saving(folder: str) -> int:
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    state, queue = tiny_trainer().sharded_state(is_loading=False), filesystem_async._results_queue
    with writing_in_this_process():
        dist_checkpointing.save(state, folder)
    assert filesystem_async._results_queue is queue  # for whoever saves asynchronously
    return len(psutil.Process().children(recursive=True))


def test_saving_in_this_process_starts_no_other(tmp_path: Path) -> None:
    assert run_ranks(processes_left_by_saving, 1, str(tmp_path)) == [0]


def train_and_resume(folder: str) -> tuple[Any, Any]:
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    trainer = tiny_trainer(tensor_model_parallel_size=2)
    trainer.step(micro_batches())
    save = FullyParallelSaveStrategyWrapper(get_default_save_sharded_strategy(), None, True)
    dist_checkpointing.save(trainer.sharded_state(is_loading=False), folder, save)
    expected = trainer.step(micro_batches())
    resumed = tiny_trainer(tensor_model_parallel_size=2)
    load = FullyParallelLoadStrategyWrapper(get_default_load_sharded_strategy(folder))
    resumed.load(dist_checkpointing.load(resumed.sharded_state(is_loading=True), folder, load))
    return expected, resumed.step(micro_batches())


def test_checkpoint_in_parallel_resumes_exactly(tmp_path: Path) -> None:
    for expected, resumed in run_ranks(train_and_resume, 2, str(tmp_path)):
        assert resumed == expected


@pytest.mark.parametrize("dispatcher", ["allgather", "alltoall"])
def test_experts_train(dispatcher: str) -> None:
    with single_process():
        trainer = tiny_trainer(num_experts=4, **experts(dispatcher))
        losses = [trainer.step(micro_batches())[0] for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]


def losses_of_experts(size: int, dispatcher: str) -> list[float]:
    parallel_state.initialize_model_parallel(expert_model_parallel_size=size)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    changes = {**experts(dispatcher), "expert_model_parallel_size": size}
    trainer = tiny_trainer(num_experts=4, **changes)
    rank = parallel_state.get_data_parallel_rank()
    return [trainer.step(micro_batches()[rank::size])[0] for _ in range(3)]


@pytest.mark.parametrize("dispatcher", ["allgather", "alltoall"])
def test_experts_train_on_two_processes(dispatcher: str) -> None:
    for losses in run_ranks(losses_of_experts, 2, 2, dispatcher):
        assert losses[0] > losses[1] > losses[2]


class PlainAttention(MegatronModule):
    """Megatron's own, without transformer-engine, takes no values narrower than the keys."""

    def __init__(self, config: TransformerConfig, *_: Any, **__: Any) -> None:
        super().__init__(config=config)

    def forward(self, *q_k_v: Any, **_: Any) -> torch.Tensor:
        q_BHTD, k_BHTD, v_BHTD = (x_TBHD.permute(1, 2, 0, 3) for x_TBHD in q_k_v[:3])
        out = torch.nn.functional.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        return out.permute(2, 0, 1, 3).flatten(2)


def test_latent_attention_runs_forward_and_backward() -> None:
    with single_process():
        config = MLATransformerConfig(**SHAPE, **UNFUSED, rope_type="rope", q_lora_rank=16, kv_lora_rank=16)
        spec = get_gpt_layer_local_spec(multi_latent_attention=True, normalization="RMSNorm")
        spec.submodules.self_attention.submodules.core_attention = PlainAttention
        block = TransformerBlock(config, spec)
        x_TBC = torch.randn(LENGTH, 2, 32, requires_grad=True)
        block(x_TBC, attention_mask=None).square().sum().backward()
    assert x_TBC.grad is not None and x_TBC.grad.abs().sum() > 0


def sum_over_ranks_of_a_transposed_gradient() -> torch.Tensor:
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    x = torch.ones(2, 3, requires_grad=True)
    copied = tensor_parallel.copy_to_tensor_model_parallel_region(x)
    copied.t().backward(torch.arange(6.0).view(3, 2))
    assert x.grad is not None
    return x.grad


def test_gradients_that_are_not_contiguous_are_summed() -> None:
    for gradient in run_ranks(sum_over_ranks_of_a_transposed_gradient, 2):
        assert gradient.equal(2 * torch.arange(6.0).view(3, 2).t())
