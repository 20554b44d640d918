"""config.json keys: agreement, disagreement, unknown keys, older spellings; written and read from the same list."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from loongforge_core.weights.config_keys import (
    Constant,
    Derived,
    Ignored,
    Key,
    Written,
    config_fields,
    config_problems,
    write_config,
)


class Scaling(BaseModel):
    type: str
    factor: float


class Config(BaseModel):
    num_layers: int = 2
    rotary_base: float = 5e5
    scaling: Scaling | None = None
    untied: bool = True
    heads: int = 4
    groups: int | None = None

    @property
    def num_groups(self) -> int:
        return self.groups or self.heads


KEYS = (
    Key("num_hidden_layers", "num_layers", 12),
    Key("rope.theta", "rotary_base", 10000.0, also=("rope_theta",)),
    Key("rope.type", "scaling.type", "default", values={"default": None, "llama3": "llama3"}, also=("rope_scaling.type",)),
    Key("rope.factor", "scaling.factor", None, also=("rope_scaling.factor",)),
    Key("tie", "untied", False, values={True: False, False: True}),
    Key("heads", "heads"),
    Key("kv_heads", "groups", lambda config: config.heads, effective="num_groups"),
    Constant("hidden_act", "silu", "silu"),
    Derived("layer_types", lambda config: ["full"] * config.num_layers),
    Written("image_tokens", lambda config: 7),
    Ignored(("dtype", "id2label.*"), "says nothing about the model"),
)

SAYS_THE_SAME: dict[str, Any] = {
    "num_hidden_layers": 2,
    "rope": {"theta": 500000, "type": "default"},
    "tie": False,
    "heads": 4,
    "kv_heads": 4,
    "hidden_act": "silu",
    "layer_types": ["full", "full"],
    "image_tokens": 576,
    "dtype": "float16",
    "id2label": {"0": "LABEL_0"},
    "sliding_window": None,
}


def test_agreement() -> None:
    assert config_problems(KEYS, SAYS_THE_SAME, Config()) == []


def test_what_is_written_agrees_and_reads_back() -> None:
    for config in (Config(), Config(num_layers=3, untied=False, groups=2, scaling=Scaling(type="llama3", factor=8.0))):
        written = write_config(KEYS, config)
        assert config_problems(KEYS, written, config) == []
        fields = config_fields(KEYS, written)
        assert Config(**fields).model_dump() == {**config.model_dump(), "groups": config.num_groups}


def test_absent_keys_mean_what_transformers_assumes() -> None:
    assert config_problems(KEYS, {"heads": 4}, Config(num_layers=12, rotary_base=10000.0)) == []
    assert config_fields(KEYS, {"heads": 4}) == {"num_layers": 12, "rotary_base": 10000.0, "untied": True, "heads": 4}


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3 in the file, but our num_layers says 2"),
        ({"rope": {"theta": 1e6}}, "rope.theta is 1000000.0 in the file, but our rotary_base says 500000.0"),
        ({"rope": {"theta": 5e5, "type": "yarn"}}, "rope.type is 'yarn' in the file, but our scaling.type says 'default'"),
        ({"rope": {"theta": 5e5, "factor": 8}}, "rope.factor is 8 in the file, but our scaling.factor says None"),
        ({"tie": True}, "tie is True in the file, but our untied says False"),
        ({"heads": None}, "heads is absent in the file, but our heads says 4"),
        ({"kv_heads": 2}, "kv_heads is 2 in the file, but our groups says 4"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu' in the file; only 'silu' is supported"),
        ({"layer_types": ["full", "sliding"]}, "layer_types is ['full', 'sliding'] in the file, but our config makes it ['full', 'full']"),
        ({"num_hiden_layers": 2}, "num_hiden_layers is 2 in the file, but no table knows this key; did you mean 'num_hidden_layers'?"),
    ],
)
def test_disagreement(change: dict[str, Any], expected: str) -> None:
    assert config_problems(KEYS, {**SAYS_THE_SAME, **change}, Config()) == [expected]


def test_older_spellings() -> None:
    old = {"num_hidden_layers": 2, "heads": 4, "rope_theta": 500000.0, "rope_scaling": {"type": "llama3", "factor": 8.0}}
    config = Config(scaling=Scaling(type="llama3", factor=8.0))
    assert config_problems(KEYS, old, config) == []
    assert Config(**config_fields(KEYS, old)) == config


def test_two_spellings_that_disagree() -> None:
    both = {**SAYS_THE_SAME, "rope_theta": 10000.0}
    assert config_problems(KEYS, both, Config()) == ["rope_theta is 10000.0 in the file, but our rotary_base says 500000.0"]


def test_below_a_section() -> None:
    keys = tuple(key.under("text_config", "foundation") for key in KEYS)
    root = {"foundation": Config()}
    assert config_problems(keys, {"text_config": SAYS_THE_SAME}, root) == []
    problems = config_problems(keys, {"text_config": {**SAYS_THE_SAME, "heads": 8}}, root)
    assert problems[0] == "text_config.heads is 8 in the file, but our foundation.heads says 4"
    assert write_config(keys, root) == {"text_config": write_config(KEYS, Config())}
    assert config_fields(keys, {"text_config": SAYS_THE_SAME}) == {"foundation": config_fields(KEYS, SAYS_THE_SAME)}
