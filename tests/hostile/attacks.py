"""Where an attack is laid out, what it tries to do, and how it must be refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loongforge_core.cli.main import main

__all__ = ["DEEP", "LINE", "SECRET", "STEP", "Place", "code", "payload", "refused", "with_code"]

SECRET = "hunter2"
LINE = {
    "messages": [{"role": "user", "content": "<image>Digit?"}, {"role": "assistant", "content": "7"}],
    "images": ["seven.png"],
}
STEP = ["data.prepare=null", "data.eval_path=null", "train.steps=1", "train.global_batch_size=1", "train.micro_batch_size=1"]
DEEP = "[" * 100_000


@dataclass(frozen=True)
class Place:
    """Where an attack is laid out, and sound data beside it."""

    data: Path
    folder: Path

    @property
    def canary(self) -> Path:
        return self.folder / "canary"

    def overrides(self) -> list[str]:
        data = [f"data.path={self.data / 'good.jsonl'}", f"output_dir={self.folder / 'out'}"]
        return [*STEP, "train.lr_warmup_steps=0", "train.export_hf=false", *data]

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str) -> None:
    capsys.readouterr()
    status = main(arguments)
    shown = capsys.readouterr()
    assert status == 2, shown.err
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert SECRET not in shown.out + shown.err


class Payload:
    """What pickle makes by calling `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


def payload(place: Place) -> Payload:
    return Payload(os.mkdir, str(place.canary))


def code(place: Place) -> str:
    """A module that sings when it is imported."""
    return f"import os\nos.mkdir({str(place.canary)!r})\nclass Hostile: pass\n"


def with_code(tree: Mapping[str, Any]) -> str:
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor")
    both = {"AutoTokenizer": ["hostile.Hostile", "hostile.Hostile"]}
    return json.dumps({**tree, "auto_map": {**{name: "hostile.Hostile" for name in names}, **both}})
