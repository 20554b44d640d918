"""The parity, round trip and size kits catch what they are for: tensors swapped, lost or changed, other numbers, other keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import transformers
from loongforge_llm.qwen2.config import Qwen2Config
from loongforge_llm.qwen2.weights import table
from torch import Tensor

from loongforge_core.errors import WeightsError
from loongforge_core.testing.parity import check_language_model, check_outputs
from loongforge_core.testing.reference import redraw
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import check_published_size
from loongforge_core.weights.config_keys import Key
from loongforge_core.weights.rules import Copy, FusedGateUp, Rule
from loongforge_core.weights.table import Table

CONFIG = Qwen2Config(num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, vocab_size=99)


def reference() -> transformers.PreTrainedModel:
    return transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=48,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=99,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        )
    )


def swapped(left: str, right: str) -> Table:
    """The table with two modules on disk in each other's place."""
    right_table = table(CONFIG)
    names = {left: right, right: left}

    def swap(rule: Rule) -> Rule:
        theirs = rule.theirs if isinstance(rule.theirs, tuple) else (rule.theirs,)
        return replace(rule, theirs=tuple(names.get(name, name) for name in theirs))

    return replace(right_table, rules=tuple(map(swap, right_table.rules)))


@pytest.mark.parametrize(
    "left, right",
    [
        ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"),
        ("model.layers.0.input_layernorm", "model.layers.1.input_layernorm"),
        ("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"),
        ("model.layers.1.self_attn.k_proj", "model.layers.1.self_attn.v_proj"),
        ("model.embed_tokens", "lm_head"),
    ],
)
def test_parity_catches_swapped_tensors(left: str, right: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="outputs differ"):
        check_language_model(CONFIG, reference(), tmp_path, table=swapped(left, right))


def test_parity_catches_another_norm(tmp_path: Path) -> None:
    """A setting that the reference has and ours has not, hidden from the check of config.json."""
    other = reference()
    other.config.rms_norm_eps = 1e-2
    for norm in (module for module in other.modules() if hasattr(module, "variance_epsilon")):
        norm.variance_epsilon = 1e-2
    trusting = replace(table(CONFIG), keys=tuple(key for key in table(CONFIG).keys if "rms_norm_eps" not in key.claims()))
    trusting = replace(trusting, keys=(*trusting.keys, Key("rms_norm_eps", "layernorm_epsilon", values={1e-2: 1e-6})))
    with pytest.raises(AssertionError, match="outputs differ"):
        check_language_model(CONFIG, other, tmp_path, table=trusting)


def test_parity_needs_outputs_that_mean_something() -> None:
    with pytest.raises(AssertionError, match="hardly differ"):
        check_outputs(torch.zeros(3, 4), torch.zeros(3, 4))
    with pytest.raises(AssertionError, match=r"is \[3, 4\], the reference's \[4, 3\]"):
        check_outputs(torch.randn(3, 4), torch.randn(4, 3))


@dataclass(frozen=True)
class Rounded(FusedGateUp):
    """A rule whose `split` is no inverse: it loses the last bits."""

    def split(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return [half.to(torch.bfloat16).to(half.dtype) for half in super().split(ours)]


def test_round_trip_catches_a_rule_that_is_no_inverse(tmp_path: Path) -> None:
    right = table(CONFIG)
    lossy = replace(right, rules=tuple(Rounded(rule.theirs, rule.ours) if isinstance(rule, FusedGateUp) else rule for rule in right.rules))
    with pytest.raises(AssertionError, match=r"not the same on both sides: .*gate_proj"):
        check_round_trip(CONFIG, reference(), tmp_path, table=lossy)


def test_round_trip_catches_a_tensor_that_is_dropped(tmp_path: Path) -> None:
    right = table(CONFIG)
    dropping = replace(
        right,
        rules=tuple(rule for rule in right.rules if rule.theirs != "lm_head"),
        ignored={"lm_head.*": "forgotten"},
        unpublished={"output_layer.*": "forgotten"},
    )
    with pytest.raises(AssertionError, match=r"not the same on both sides: \['lm_head.weight'\]"):
        check_round_trip(CONFIG, reference(), tmp_path, table=dropping)


def test_round_trip_catches_another_name(tmp_path: Path) -> None:
    """Read by an alias, but written under a name that transformers does not know."""
    right = table(CONFIG)
    renamed = tuple(Copy("model.final_norm", rule.ours) if rule.theirs == "model.norm" else rule for rule in right.rules)
    with pytest.raises(AssertionError, match="remarks"):
        check_round_trip(CONFIG, reference(), tmp_path, table=replace(right, rules=renamed, aliases={"model.norm.": "model.final_norm."}))


def test_round_trip_catches_a_key_of_another_meaning(tmp_path: Path) -> None:
    silent = replace(table(CONFIG), keys=tuple(key for key in table(CONFIG).keys if "tie_word_embeddings" not in key.claims()))
    with pytest.raises(WeightsError, match="tie_word_embeddings is False in the file, but no table knows this key"):
        check_round_trip(CONFIG, reference(), tmp_path, table=silent)


def test_sizes_catch_other_numbers() -> None:
    figures = transformers.Qwen2Config(num_hidden_layers=24, hidden_size=896, intermediate_size=4864, num_attention_heads=14)
    with pytest.raises(AssertionError, match=r"tensors differ \(ours, theirs\)"):
        check_published_size("qwen2.5/qwen2_5_0_5b", transformers.Qwen2ForCausalLM, figures)


def test_redrawn_tensors_are_all_different() -> None:
    model = reference()
    redraw(model)
    tensors = [tensor.flatten()[:8] for tensor in model.state_dict().values()]
    assert len({tuple(tensor.tolist()) for tensor in tensors}) == len(tensors)
