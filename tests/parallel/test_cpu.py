"""Megatron-Core without CUDA: what trains, what is the same on several processes, what is refused, what is left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from loongforge_core.parallel.cpu import prepare_megatron
from loongforge_core.parallel.launch import single_process

prepare_megatron()

from megatron.core import tensor_parallel  # noqa: E402
from megatron.core.distributed import (  # noqa: E402
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.enums import ModelType  # noqa: E402
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer  # noqa: E402
from megatron.core.pipeline_parallel import get_forward_backward_func  # noqa: E402
from megatron.core.transformer import MegatronModule, TransformerConfig  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlock  # noqa: E402

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


def tiny_config(**changes: Any) -> TransformerConfig:
    return TransformerConfig(
        **{
            "num_layers": 4,
            "hidden_size": 32,
            "ffn_hidden_size": 64,
            "num_attention_heads": 4,
            "num_query_groups": 2,
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
            **changes,
        }
    )


@dataclass
class Trainer:
    model: Any
    optimizer: Any

    def step(self, batches: list[torch.Tensor]) -> tuple[float, float]:
        """Mean loss over this process's micro-batches, and the gradient norm."""
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        losses = get_forward_backward_func()(
            forward_step_func=lambda data, model: (model(next(data)), lambda loss: (loss, {"loss": loss.detach()})),
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
    config = tiny_config(**changes)
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_on_one_process(precision: str) -> None:
    changes = {"bf16": True, "params_dtype": torch.bfloat16} if precision == "bf16" else {}
    with single_process():
        trainer = tiny_trainer(**changes)
        losses = [trainer.step(micro_batches())[0] for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
