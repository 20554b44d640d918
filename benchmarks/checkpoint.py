"""Saving a checkpoint of a language model of 29 million parameters and its optimizer, against bringing the same bytes to disk.

And loading it, against reading them. Both sides replace what they wrote before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch

from benchmarks.paired import time_in_turn
from loongforge_core.config.check import composition_from
from loongforge_core.model.batch import Batch
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import single_process
from loongforge_core.registry.registry import Registry
from loongforge_core.train.checkpoint.load import load_checkpoint
from loongforge_core.train.checkpoint.record import Record, model_of
from loongforge_core.train.checkpoint.save import save_checkpoint
from loongforge_core.train.step import Trainer, build_trainer

FOUNDATION = {
    "type": "qwen2",
    "num_layers": 8,
    "hidden_size": 512,
    "ffn_hidden_size": 1024,
    "num_attention_heads": 8,
    "vocab_size": 8192,
}


def trainer() -> Trainer:
    registry = Registry.discover()
    plan = composition_from({"model": {"foundation": FOUNDATION}}, registry)
    made = build_trainer(plan, [OmniModelProvider(composition=plan, registry=registry)()])
    tokens = torch.zeros(1, 2, dtype=torch.long)
    made.step(
        [Batch(token_ids_bs=tokens, labels_bs=tokens, loss_mask_bs=torch.ones(1, 2), position_ids=tokens)]
    )  # the optimizer has state now
    return made


def write(file: Path, size: int, block: bytes) -> None:
    with file.open("wb", buffering=0) as opened:
        for start in range(0, size, len(block)):
            opened.write(block[: size - start])
        os.fsync(opened.fileno())


def read(files: list[Path], buffer: bytearray) -> None:
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def main(*, runs: int = 5) -> None:
    torch.set_num_threads(1)
    with single_process(), tempfile.TemporaryDirectory() as temporary:
        output, file = Path(temporary) / "run", Path(temporary) / "bytes"
        made = trainer()
        record = Record(step=1, model=model_of(made.composition), numbers={}, plugins=())

        def save() -> Path:
            shutil.rmtree(output, ignore_errors=True)
            return save_checkpoint(output, made, record)

        folder = save()
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        print(f"A checkpoint of {size / 1e6:.0f} MB, ours : its bytes")
        block = os.urandom(4 * 1024**2)
        print(f"{'save : write and fsync':34} {time_in_turn(save, lambda: write(file, size, block), runs=runs, warm_up=1)}", flush=True)
        buffer = bytearray(4 * 1024**2)
        print(
            f"{'load : read':34} {time_in_turn(lambda: load_checkpoint(folder, made), lambda: read(files, buffer), runs=runs, warm_up=1)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
