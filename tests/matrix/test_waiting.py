"""While a model runs forward and backward the host waits for no device: it knows how long everything is, and stays ahead of the kernels.

Backbones with experts are left out: Megatron's dispatcher asks the device how many tokens go to each.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from compositions import TINY, Triple
from questions import written

from loongforge_core.data.training_data import TrainingData
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry import Registry
from loongforge_core.testing.waiting import META, never_waiting

WITH_EXPERTS = {"deepseek_v2", "deepseek_v3", "qwen3_moe"}
TRIPLES = (
    Triple("clip", "mlp", "llama"),
    Triple("intern_vit", "intern_mlp", "internlm2"),
    Triple("qwen2_5_vl", "patch_merger", "qwen2"),
    Triple("qwen3_vl", "patch_merger", "qwen3"),
    Triple("rice_vit", "patch_merger", "mistral"),
    Triple("siglip", "linear", "llama"),
    Triple("qwen2_audio", "linear", "qwen2"),
    Triple("whisper", "frame_stack", "qwen3"),
    Triple("hf_encoder", "intern_mlp", "llama"),
)


def test_every_component_without_experts_is_here() -> None:
    assert {triple.encoder for triple in TRIPLES} == set(TINY["encoder"])
    assert {triple.projector for triple in TRIPLES} == set(TINY["projector"])
    assert {triple.backbone for triple in TRIPLES} == set(TINY["backbone"]) - WITH_EXPERTS


@pytest.mark.parametrize("triple", TRIPLES, ids=map(str, TRIPLES))
def test_no_device_is_waited_for(triple: Triple, tmp_path: Path) -> None:
    registry = Registry.discover()
    composition = written(triple, registry, tmp_path)
    batch = TrainingData(composition, registry).batches(0)[0].to(META)
    assert batch.items, "there is something to encode"
    with single_process():
        model = OmniModelProvider(composition=composition, registry=registry, device=META)()
        with never_waiting():
            model(batch).sum().backward()
