"""What the tiny compositions are trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from compositions import Triple, composition_of, modality_of
from PIL import Image
from scipy.io import wavfile

from loongforge_core.config.composition import Composition
from loongforge_core.registry import Registry


def written(triple: Triple, registry: Registry, folder: Path) -> Composition:
    """The composition on six questions with answers of unequal lengths, and items of unequal sizes."""
    modality = modality_of(triple.encoder, registry)
    write_item = {"image": write_image, "audio": write_sound}[modality]
    lines = []
    for number, items in enumerate((1, 2, 0, 1, 3, 1)):
        names = [f"{number}_{item}{'.png' if modality == 'image' else '.wav'}" for item in range(items)]
        for item, name in enumerate(names):
            write_item(folder / name, np.random.default_rng([number, item]))
        answer = "".join(map(chr, np.random.default_rng(number).integers(32, 126, 40)))
        messages = [{"role": "user", "content": f"<{modality}>" * items + "?"}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages, f"{modality}s": names}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    return composition_of(
        triple,
        registry,
        tokenizer="pkg://loongforge_models/digits/tokenizer",
        data={"path": str(folder / "train.jsonl")},
        train={"global_batch_size": 6, "micro_batch_size": 3, "steps": 4, "lr": 1e-3},
        output_dir=str(folder / "run"),
    )


def write_image(path: Path, random: np.random.Generator) -> None:
    height, width = random.integers(20, 60, 2)
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def write_sound(path: Path, random: np.random.Generator) -> None:
    wavfile.write(path, 16000, random.integers(-(2**14), 2**14, int(random.integers(4000, 9000)), dtype=np.int16))
