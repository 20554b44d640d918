"""Positions of three axes: parity with the language models inside Qwen2.5-VL and Qwen3-VL, and what their folders say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from loongforge_llm.qwen2.config import Qwen2Config
from loongforge_llm.qwen2.weights import table as qwen2_table
from loongforge_llm.qwen3.config import Qwen3Config
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from loongforge_core.layers.decoder_config import DecoderConfig
from loongforge_core.testing.parity import check_parity
from loongforge_core.testing.reference import ours
from loongforge_core.weights.config_keys import config_fields, config_problems, write_config

OURS: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 16,
    "vocab_size": 99,
    "rotary_base": 100.0,
}
THEIRS = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "rms_norm_eps": 1e-6,
}
PLAIN = {"mrope_section": [2, 3, 3]}
INTERLEAVED = {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
LENGTHS = (13, 8, 5)


class Reference(nn.Module):
    """A text model with an output layer, under the names of a language model on its own."""

    def __init__(self, text_model: nn.Module) -> None:
        super().__init__()
        self.model = text_model
        self.lm_head = nn.Linear(32, 99, bias=False)


def both(case: str) -> tuple[DecoderConfig, Reference]:
    rotary = {"rope_type": "default", "rope_theta": 100.0}
    if case == "qwen2.5-vl":
        theirs = transformers.Qwen2_5_VLTextConfig(**{**THEIRS, "num_attention_heads": 2}, rope_parameters={**rotary, **PLAIN})
        # Its heads are as wide as its width allows.
        fields = {**OURS, "num_attention_heads": 2, "kv_channels": None}
        return Qwen2Config(**fields, **PLAIN), Reference(Qwen2_5_VLTextModel(theirs))
    theirs = transformers.Qwen3VLTextConfig(**THEIRS, head_dim=16, rope_parameters={**rotary, **INTERLEAVED})
    return Qwen3Config(**OURS, **INTERLEAVED), Reference(Qwen3VLTextModel(theirs))


@pytest.mark.parametrize("case", ["qwen2.5-vl", "qwen3-vl"])
def test_parity(case: str, tmp_path: Path) -> None:
    """A padded batch with every axis at random positions."""
    config, reference = both(case)
    random = torch.Generator().manual_seed(3)
    ids_bs = torch.randint(99, (len(LENGTHS), max(LENGTHS)), generator=random)
    positions_abs = torch.randint(30, (3, *ids_bs.shape), generator=random)
    is_token_bs = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]

    def run_ours(component: Any) -> Tensor:
        logits_bsv: Tensor = component(component.embed(ids_bs), positions_abs, token_ids_bs=ids_bs)
        return logits_bsv[is_token_bs]

    def run_reference(reference: Any) -> Tensor:
        hidden_bsh = reference.model(input_ids=ids_bs, attention_mask=is_token_bs.long(), position_ids=positions_abs).last_hidden_state
        logits_bsv: Tensor = reference.lm_head(hidden_bsh)
        return logits_bsv[is_token_bs]

    with ours(config) as built:
        assert config.position_axes == 3
        check_parity(built, reference, tmp_path, run_ours=run_ours, run_reference=run_reference)


def test_published_folders_of_qwen2_5_vl_call_it_a_type_of_scaling() -> None:
    config = Qwen2Config(**OURS, **PLAIN)
    keys = qwen2_table(config).keys
    given = {**THEIRS, "head_dim": 16, "rope_theta": 100.0, "rope_scaling": {"type": "mrope", **PLAIN}}
    assert not config_problems(keys, given, config)
    read = config_fields(keys, given)
    assert (read["mrope_section"], "rotary_scaling" in read) == ([2, 3, 3], False)
    assert write_config(keys, config)["rope_parameters"] == {"rope_type": "default", "rope_theta": 100.0, **PLAIN}
    given["rope_scaling"] = {"type": "mrope", "mrope_section": [4, 2, 2]}
    (said,) = config_problems(keys, given, config)
    assert said == "rope_scaling.mrope_section is [4, 2, 2] in the file, but our mrope_section says [2, 3, 3]"
