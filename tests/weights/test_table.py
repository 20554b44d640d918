"""Tables: nesting, other spellings, and the mistakes that an author can make."""

from __future__ import annotations

import pytest
import torch

from loongforge_core.errors import WeightsError
from loongforge_core.testing.reference import Ours
from loongforge_core.weights.config_keys import Constant, Key, config_problems, write_config
from loongforge_core.weights.export_hf import export_component
from loongforge_core.weights.gathering import whole_tensors
from loongforge_core.weights.holding import holdings
from loongforge_core.weights.rules import WEIGHT_AND_BIAS, Copy, FusedGateUp
from loongforge_core.weights.table import Table, combine

ENCODER = Table(
    rules=(Copy("vision_model.norm", "norm", parts=WEIGHT_AND_BIAS), FusedGateUp(("vision_model.gate", "vision_model.up"), "fc1")),
    keys=(Key("width", "hidden_size"),),
    model_type="toy_vision",
    aliases={"": "vision_model."},
    ignored={"text_model.*": "the other half"},
    carried={"norm.*": "not applied"},
)
DECODER = Table(
    rules=(Copy("model.embed", "embedding"), Copy("lm_head", "output")), model_type="toy_text", tied={"head.weight": "model.embed.weight"}
)


def test_two_rules_may_not_claim_one_tensor() -> None:
    with pytest.raises(AssertionError, match=r"two rules claim a\.weight \(theirs\)"):
        Table(rules=(Copy("a", "x"), Copy("a", "y")))
    with pytest.raises(AssertionError, match=r"two rules claim x\.weight \(ours\)"):
        Table(rules=(Copy("a", "x"), Copy("b", "x")))


def test_both_spellings_of_a_prefix() -> None:
    assert ENCODER.canonical("vision_model.norm.bias") == "vision_model.norm.bias"
    assert ENCODER.canonical("norm.bias") == "vision_model.norm.bias"
    assert ENCODER.canonical("vision_model.vision_model.norm.bias") is None
    assert ENCODER.canonical("other.norm.bias") is None


def test_nested() -> None:
    whole = combine(
        (
            ENCODER.under(theirs="tower.", ours="image_encoder", section="vision_config"),
            DECODER.under(theirs="text.", ours="foundation", section="text_config"),
        ),
        keys=(Constant("strategy", "full"),),
        aliases={"model.tower.": "tower."},
        model_type="toy",
    )
    assert [entry.theirs for entry in whole.entries] == [
        ("tower.vision_model.norm.weight",),
        ("tower.vision_model.norm.bias",),
        ("tower.vision_model.gate.weight", "tower.vision_model.up.weight"),
        ("text.model.embed.weight",),
        ("text.lm_head.weight",),
    ]
    assert whole.entries[2].ours == ("image_encoder.fc1.weight",)
    assert whole.canonical("model.tower.norm.bias") == "tower.vision_model.norm.bias"
    assert whole.tied == {"text.head.weight": "text.model.embed.weight"}
    assert whole.is_ignored("tower.text_model.norm.weight")
    assert list(whole.carried) == ["image_encoder.norm.*"]
    configs = {"image_encoder": {"hidden_size": 8}}
    tree = write_config(whole.keys, configs)
    assert tree == {
        "strategy": "full",
        "vision_config": {"width": 8, "model_type": "toy_vision"},
        "text_config": {"model_type": "toy_text"},
    }
    tree["vision_config"]["model_type"] = "other_vision"
    assert config_problems(whole.keys, tree, configs) == [
        "vision_config.model_type is 'other_vision' in the file; only 'toy_vision' is supported"
    ]


def test_shapes_on_disk() -> None:
    shapes = ENCODER.shapes_on_disk({"norm.weight": (8,), "norm.bias": (8,), "fc1.weight": (6, 8)})
    assert shapes["vision_model.gate.weight"] == shapes["vision_model.up.weight"] == (3, 8)
    assert shapes["vision_model.norm.bias"] == (8,)


def test_a_tensor_of_ours_without_a_rule(qwen2: Ours, tmp_path: object) -> None:
    """Neither read nor written silently; listed with its reason, it is left alone."""
    forgetful = Table(rules=qwen2.table.rules[:-1], keys=qwen2.table.keys, model_type="qwen2")
    with pytest.raises(WeightsError, match=r"our output_layer\.weight is in no rule of the table"):
        export_component(tmp_path, qwen2.target, forgetful, qwen2.config)  # type: ignore[arg-type]


def test_a_rule_for_a_tensor_that_we_do_not_have(qwen2: Ours, tmp_path: object) -> None:
    wrong = Table(rules=(*qwen2.table.rules, Copy("model.final", "decoder.finallayernorm")), keys=qwen2.table.keys, model_type="qwen2")
    with pytest.raises(WeightsError, match=r"a rule of the table names our decoder\.finallayernorm\.weight, which is not here"):
        export_component(tmp_path, qwen2.target, wrong, qwen2.config)  # type: ignore[arg-type]


def test_a_holding_is_put_together_from_its_pieces(qwen2: Ours) -> None:
    """Gate and up are one parameter in two pieces; the vocabulary's padding is left out."""
    held = holdings({"": qwen2.model})
    fc1 = held["decoder.layers.0.mlp.linear_fc1.weight"]
    assert len(fc1.pieces) == 2
    values = torch.randn(96, 32)
    fc1.fill(values)
    assert torch.equal(whole_tensors(held)[fc1.name].whole(), values)
    assert torch.equal(qwen2.model.decoder.layers[0].mlp.linear_fc1.weight, values)
    assert whole_tensors(held)["output_layer.weight"].whole().shape == (99, 32)
    del fc1.pieces[1]
    with pytest.raises(WeightsError, match="1536 of 3072 values are held"):
        whole_tensors(held)[fc1.name].whole()
