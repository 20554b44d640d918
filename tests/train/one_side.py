"""Commands of `loongforge`, one after another in a process that sees the accelerator or does not: `one_side.py JOBS.json`.

Megatron runs either with the accelerator or without one in a process (`parallel/cpu.py`). What went wrong is written beside JOBS.json, by
command, so that one that fails takes no other with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from loongforge_core.cli.main import main


def run(arguments: list[str]) -> str:
    """What went wrong; nothing where nothing did."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            status = main([*arguments, "--debug"])
        except BaseException:
            return traceback.format_exc()
    return f"exit status {status}: {said.getvalue()}" if status else ""


def run_all(jobs: dict[str, Any], results: Path) -> None:
    assert torch.cuda.is_available() is jobs["accelerated"]
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    results.write_text(json.dumps({name: run(arguments) for name, arguments in jobs["commands"].items()}))


if __name__ == "__main__":
    path = Path(sys.argv[1])
    run_all(json.loads(path.read_text()), path.with_suffix(".results.json"))
