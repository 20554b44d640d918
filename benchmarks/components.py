"""Forward and backward of every encoder and every family of language models against `transformers` with SDPA (eager where it has no other).

Same weights, inputs and threads; the outputs are compared before anything is timed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from loongforge_llm.llama.config import LlamaConfig
from loongforge_llm.mistral.config import MistralConfig
from loongforge_llm.qwen2.config import Qwen2Config
from loongforge_llm.qwen3.config import Qwen3Config
from torch import Tensor

from benchmarks.paired import time_in_turn
from loongforge_core.component import ComponentConfig
from loongforge_core.testing.reference import ours, save_reference
from loongforge_core.weights.import_hf import import_hf

SAMPLES, LENGTH, VOCABULARY = 4, 256, 2048


@dataclass(frozen=True)
class Case:
    """A component, its reference, and how each makes of the same inputs what is compared."""

    name: str
    config: ComponentConfig
    reference: Any
    run_ours: Callable[[Any], Tensor]
    run_reference: Callable[[Any], Tensor]
    footnote: str = ""
    """Why ours is slower, where it is."""


# ---- language models

OURS = {
    "num_layers": 4,
    "hidden_size": 256,
    "ffn_hidden_size": 1024,
    "num_attention_heads": 8,
    "num_query_groups": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
}
THEIRS = {
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "attn_implementation": "sdpa",
    "use_cache": False,
    "tie_word_embeddings": False,
}


def theta(base: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": base}}


def language_models() -> Iterator[Case]:
    ids_bs = torch.randint(0, VOCABULARY, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(1))
    positions_bs = torch.arange(LENGTH).expand(SAMPLES, -1)

    def run_ours(component: Any) -> Tensor:
        logits: Tensor = component(component.embed(ids_bs), positions_bs, token_ids_bs=ids_bs)
        return logits

    def run_reference(reference: Any) -> Tensor:
        logits: Tensor = reference(input_ids=ids_bs).logits
        return logits

    def case(name: str, config: ComponentConfig, reference: Any, footnote: str = "") -> Case:
        return Case(name, config, reference, run_ours, run_reference, footnote)

    llama = transformers.LlamaForCausalLM
    yield case("llama", LlamaConfig(**OURS), llama(transformers.LlamaConfig(**THEIRS, **theta(5e5), rms_norm_eps=1e-5)))
    yield case("qwen2", Qwen2Config(**OURS), transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**THEIRS, **theta(1e6))))
    narrow = {"kv_channels": 32}, {"head_dim": 32}
    yield case(
        "qwen3",
        Qwen3Config(**OURS, **narrow[0]),
        transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**THEIRS, **narrow[1], **theta(1e6))),
    )
    window = {"sliding_window": 64}
    yield case(
        "mistral, window of 64",
        MistralConfig(**OURS, **window, rotary_base=1e4, layernorm_epsilon=1e-6),
        transformers.MistralForCausalLM(transformers.MistralConfig(**THEIRS, **window, **theta(1e4), head_dim=32)),
    )


def cases() -> Iterator[Case]:
    yield from language_models()


def compare(case: Case, *, runs: int) -> str:
    """Prints the times of one case; a footnote where ours is slower."""
    reference = case.reference.train()
    with ours(case.config) as built, tempfile.TemporaryDirectory() as folder:
        save_reference(reference, Path(folder) / "reference", built.table, built.config)
        import_hf(Path(folder) / "reference", built.target, built.table, built.config)
        difference = float((case.run_ours(built.model) - case.run_reference(reference)).detach().abs().max())
        assert difference < 1e-3, f"{case.name}: not the same model: outputs differ by {difference:.2g}"
        pairs = time_in_turn(step(built.model, case.run_ours), step(reference, case.run_reference), runs=runs, clock=time.process_time)
    print(f"{case.name:28} {pairs}   outputs differ by {difference:.1e}", flush=True)
    return f"{case.name}: {case.footnote}" if pairs.ratio_of_medians > 1 and case.footnote else ""


def step(model: Any, run: Callable[[Any], Tensor]) -> Callable[[], None]:
    def forward_and_backward() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        run(model).square().mean().backward()

    return forward_and_backward


def main(*, runs: int = 15, only: str = "") -> None:
    print("Forward and backward, ours : transformers, 1 thread, float32; a ratio below 1 means that ours is faster")
    torch.set_num_threads(1)
    footnotes = [compare(case, runs=runs) for case in cases() if only in case.name]
    print(*filter(None, footnotes), sep="\n")


if __name__ == "__main__":
    main(only=sys.argv[1] if len(sys.argv) > 1 else "")
