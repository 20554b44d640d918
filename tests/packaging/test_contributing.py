"""What CONTRIBUTING.md shows of a family is what its files say."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAMILY = ROOT / "plugins" / "loongforge_llm"
SHOWN = re.findall(r"```(?:python|yaml)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text().partition("### A family")[2], re.DOTALL)
FILES = [
    *(FAMILY / "loongforge_llm" / "qwen3").glob("*.py"),
    FAMILY / "loongforge_llm" / "plugin.py",
    FAMILY / "loongforge_llm" / "configs" / "qwen3" / "qwen3_8b.yaml",
    FAMILY / "tests" / "test_qwen3.py",
]


def test_a_family_is_shown() -> None:
    assert len(SHOWN) == 7


@pytest.mark.parametrize("snippet", SHOWN, ids=range(len(SHOWN)))
def test_what_is_shown_is_in_its_file(snippet: str) -> None:
    inside = textwrap.indent(snippet.rstrip(), " " * 8)
    assert sum(snippet in text or inside in text for text in (path.read_text() for path in FILES)) == 1, snippet
