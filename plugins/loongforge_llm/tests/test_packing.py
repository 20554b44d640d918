"""Several samples in one row, without attention between them, equal the samples alone: logits and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loongforge_llm.internlm2.config import InternLM2Config
from loongforge_llm.llama.config import LlamaConfig
from loongforge_llm.mistral.config import MistralConfig
from loongforge_llm.qwen2.config import Qwen2Config
from loongforge_llm.qwen3.config import Qwen3Config
from torch import Tensor

from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.layers.packing import packed_row
from loongforge_core.testing.parity import check_outputs
from loongforge_core.testing.reference import ours, redraw

SIZES: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": 99,
    "rotary_base": 100.0,
}
CONFIGS: dict[str, DecoderConfig] = {
    "plain": LlamaConfig(**SIZES),
    "M-RoPE": Qwen2Config(**SIZES, mrope_section=[2, 1, 1]),
    "interleaved M-RoPE, head norms": Qwen3Config(**SIZES, kv_channels=16, mrope_section=[4, 2, 2], mrope_interleaved=True),
    "window": MistralConfig(**SIZES, sliding_window=3),
    "dynamic": InternLM2Config(**SIZES, max_position_embeddings=6, rotary_scaling={"type": "dynamic", "factor": 2.0}),
    "yarn": LlamaConfig(**SIZES, rotary_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4}),
}
LENGTHS = (9, 1, 6, 12)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_packed_row_equals_its_samples_alone(name: str) -> None:
    config = CONFIGS[name]
    random = torch.Generator().manual_seed(5)
    ids = [torch.randint(99, (1, length), generator=random) for length in LENGTHS]
    if config.position_axes == 3:
        positions = [torch.randint(40, (3, 1, length), generator=random) for length in LENGTHS]
    else:
        positions = [torch.arange(length)[None] for length in LENGTHS]
    weighting = torch.randn(sum(LENGTHS), 99, generator=random) / sum(LENGTHS)

    with ours(config, max_sequence_length=max(LENGTHS)) as built:
        redraw(built.model)

        def run(ids_bs: Tensor, position_ids: Tensor, **packed: Any) -> Tensor:
            logits_bsv: Tensor = built.model(built.model.embed(ids_bs), position_ids, token_ids_bs=ids_bs, **packed)
            return logits_bsv[0]

        def gradients(logits: Tensor) -> list[Tensor]:
            return list(torch.autograd.grad((logits * weighting).sum(), list(built.model.parameters())))

        alone = torch.cat([run(*sample) for sample in zip(ids, positions, strict=True)])
        together = run(torch.cat(ids, dim=-1), torch.cat(positions, dim=-1), packed=packed_row(LENGTHS))
        check_outputs(together, alone)
        torch.testing.assert_close(gradients(together), gradients(alone), atol=1e-5, rtol=1e-5)
