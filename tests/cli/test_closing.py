"""The program is called as the person at the keyboard can call it."""

from __future__ import annotations

import sys

import pytest

from loongforge_core.cli.closing import program


@pytest.mark.parametrize(
    ("called", "typed"),
    [
        (".venv/bin/loongforge", ".venv/bin/loongforge"),
        ("loongforge_core/__main__.py", "loongforge"),
    ],
)
def test_program_off_the_path_is_called_by_its_own(monkeypatch: pytest.MonkeyPatch, called: str, typed: str) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setenv("PATH", "")
    assert program() == typed
