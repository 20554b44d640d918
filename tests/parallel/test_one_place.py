"""Only `parallel` knows whether there is an accelerator."""

from __future__ import annotations

from pathlib import Path

import loongforge_core

ROOT = Path(loongforge_core.__file__).parent


def test_nothing_outside_parallel_asks_for_an_accelerator() -> None:
    asking = {path.relative_to(ROOT).parts[0] for path in ROOT.rglob("*.py") if "torch.cuda" in path.read_text()}
    assert asking == {"parallel"}
