"""What is said of a value that may have several forms, told apart by a key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from loongforge_core.config.provenance import Provenance
from loongforge_core.config.sentences import Findings, validated


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Round(Strict):
    type: Literal["round"] = "round"
    radius: float
    """In metres."""


class Square(Strict):
    type: Literal["square"] = "square"
    side: float


class Table(Strict):
    shape: Annotated[Round | Square, Field(discriminator="type")] | None = None


@pytest.mark.parametrize(
    ("shape", "key", "said"),
    [
        ({"type": "round", "radius": "wide"}, "radius", "got 'wide' (text), expected a number"),
        ({"type": "round"}, "radius", "not given, and it has no default: In metres."),
        ({"type": "round", "radius": 1.0, "raduis": 1.0}, "raduis", "unknown key; did you mean 'radius'?"),
        ({"type": "square", "radius": 1.0, "side": 2.0}, "radius", "unknown key; valid: side, type"),
        ({"type": "rund", "radius": 1.0}, "type", "got 'rund', expected 'round', 'square'; did you mean 'round'?"),
        ({"radius": 1.0}, "type", "not given, and it has no default; expected 'round', 'square'"),
    ],
)
def test_the_place_is_a_key_of_the_file_and_the_form_is_the_one_that_it_chose(shape: dict[str, Any], key: str, said: str) -> None:
    findings = Findings(Provenance())
    assert validated(Table, {"shape": shape}, "hall", findings) is None
    assert [(issue.key, issue.message) for issue in findings.issues] == [(f"hall.shape.{key}", said)]
