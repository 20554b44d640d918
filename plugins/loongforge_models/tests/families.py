"""Whole models beside their references: the same conversations through both processors, templates, models, gradients and folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from loongforge_core.cli.main import main
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.data.collate import collate, collate_packed
from loongforge_core.data.conversations import parse_conversation
from loongforge_core.data.sample import Sample
from loongforge_core.data.training_data import load_sample_maker
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.parity import check_parity
from loongforge_core.testing.reference import different_tensors, our_model, redraw, save_reference
from loongforge_core.testing.roundtrip import check_loads_without_remarks, check_same_folder
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.load import import_model

VOCAB_SIZE = 272


def save_tokenizer(folder: Path, special: Sequence[str], template: str, **named: Any) -> Path:
    """A byte-level tokenizer with these special tokens; `named` are its attributes, such as `eos_token`."""
    characters = bytes_to_unicode()
    tokenizer = Tokenizer(models.BPE(vocab={characters[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **named).save_pretrained(folder)
    return folder


def token_id(token: str, special: Sequence[str]) -> int:
    return 256 + special.index(token)


def respell(folder: Path, renamed: Mapping[str, str]) -> None:
    """Renames the tensors of a folder, by prefix."""

    def spelled(name: str) -> str:
        prefix = next(filter(name.startswith, renamed), "")
        return renamed.get(prefix, "") + name.removeprefix(prefix)

    tensors = load_file(folder / "model.safetensors")
    save_file({spelled(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


def save_image(path: Path, height: int, width: int, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.name


@dataclass(frozen=True)
class Talk:
    """A conversation with one answer; `parts` are the question's texts, and an item of a modality where one is named by its path."""

    parts: Sequence[str | tuple[str, str]]
    answer: str

    def line(self) -> dict[str, Any]:
        """As a data file has it."""
        content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": part[0]} for part in self.parts]
        columns: dict[str, list[str]] = {}
        for part in self.parts:
            if isinstance(part, tuple):
                columns.setdefault(f"{part[0]}s", []).append(part[1])
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": self.answer}]
        return {"messages": turns, **columns}

    def chat(self) -> list[dict[str, Any]]:
        """As a published processor takes it, without the answer's items."""
        content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": part[0]} for part in self.parts]
        return [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": self.answer}]}]

    def items(self, modality: str) -> list[str]:
        return [part[1] for part in self.parts if isinstance(part, tuple) and part[0] == modality]


TRAIN = {"seq_length": 400, "lr": 1e-2, "steps": 2, "lr_warmup_steps": 1, "adam_eps": 1e-5}
"""As other tests of layouts have it: where a gradient is next to nothing, rounding would decide a step."""


def compose(model: Mapping[str, Any], tokenizer: Path | None = None) -> Composition:
    run = {"tokenizer": str(tokenizer)} if tokenizer else {}
    return composition_from({"model": model, "train": TRAIN, **run}, Registry.discover())


@dataclass(frozen=True)
class Given:
    """The same conversations on both sides."""

    samples: list[Sample]
    inputs: Mapping[str, Tensor]
    """What the reference takes, padded on the right."""
    placeholders: Mapping[str, int] = field(default_factory=dict)
    """Modality -> the id that the reference has in the place of an item's tokens."""

    @property
    def real(self) -> Tensor:
        return self.inputs["attention_mask"].bool()

    def check_tokens(self) -> None:
        """Every sample's token ids are the published processor's."""
        for sample, ids, real in zip(self.samples, self.inputs["input_ids"], self.real, strict=True):
            ours = sample.token_ids.copy()
            for span in sample.spans:
                ours[span.start : span.start + span.num_tokens] = self.placeholders[span.modality]
            assert PLACEHOLDER_ID not in ours
            assert ours.tolist() == ids[real].tolist()


def samples_of(composition: Composition, talks: Sequence[Talk], folder: Path) -> list[Sample]:
    maker = load_sample_maker(composition, Registry.discover())
    lines = [parse_conversation(talk.line(), composition.modalities, folder=folder, where="a talk") for talk in talks]
    return [maker.sample(line) for line in lines]


def batches_of(samples: Sequence[Sample]) -> list[list[Batch]]:
    """Micro-batches of two steps for `check_layouts`: in the second, one data-parallel rank has text alone."""
    first, text, last = samples
    return [[collate([first, text]), collate([last])], [collate([text]), collate([last, first])]]


def without_videos(processor_class: type[Any]) -> type[Any]:
    """A published processor without its video processor, which needs torchvision."""

    class Processor(processor_class):  # type: ignore[misc, valid-type]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    return Processor


def check_pixels(given: Given, modality: str, name: str) -> None:
    """What our processor makes of the files is what the published one makes."""
    items = [item for sample in given.samples for item in sample.items.get(modality, ())]
    assert torch.equal(torch.cat([torch.from_numpy(item.inputs["pixel_values"]) for item in items]), given.inputs[name])


def check_whole_parity(composition: Composition, reference: Any, given: Given, folder: Path) -> None:
    """Logits wherever there is a token, and the gradient of every tensor, of a padded batch; packed in one row, the same logits."""
    padded, packed = collate(given.samples), collate_packed(given.samples)

    def run_ours(model: Any) -> Tensor:
        logits: Tensor = model(padded, with_labels=False)[given.real]
        with torch.no_grad():
            assert torch.allclose(model(packed, with_labels=False)[0], logits, atol=1e-5)
        return logits

    def run_reference(model: Any) -> Tensor:
        logits: Tensor = model(**given.inputs).logits
        return logits[given.real]

    with our_model(composition) as built:
        check_parity(built, reference, folder, run_ours=run_ours, run_reference=run_reference)


def check_whole_round_trip(
    composition: Composition, reference: Any, folder: Path, *, same: Callable[[Path], Path] = lambda folder: folder
) -> Path:
    """From the reference's folder through ours to an export that has the same tensors, and that the reference's class reads as the same.

    `same` turns the reference's folder into one whose tensors lie as ours do. Returns the export's folder.
    """
    registry, tokenizer = Registry.discover(), Path(str(composition.run.tokenizer))
    redraw(reference)
    with our_model(composition) as built:
        save_reference(reference, folder / "theirs", built.table, built.config)
        import_model(folder / "theirs", built.target, composition, registry)
        export_hf(built.target, composition, registry, folder / "export", tokenizer=tokenizer)
        redraw(built.model, seed=1)
        import_model(folder / "export", built.target, composition, registry)
        export_hf(built.target, composition, registry, folder / "again", tokenizer=tokenizer)
        check_same_folder(same(folder / "theirs"), folder / "export", built.table)
        check_same_folder(folder / "export", folder / "again", built.table)
    check_loads_without_remarks(reference, folder / "export", folder / "resaved")
    return folder / "export"


def check_merging(
    model: Mapping[str, Any], folders: Mapping[str, Path], parts: Mapping[str, nn.Module], folder: Path, tokenizer: Path
) -> None:
    """`export-hf` of slots that name `pretrained` folders: transformers loads what it writes, every tensor of every part and no other.

    `parts` are what the folders hold, by the prefix of their names in the whole's memory.
    """
    slots = {name: {**model[name], "pretrained": str(path)} for name, path in folders.items()}
    run = {"model": {**model, **slots}, "tokenizer": str(tokenizer), "output_dir": str(folder / "none"), "train": TRAIN}
    (folder / "merging.yaml").write_text(json.dumps(run))
    assert main(["export-hf", str(folder / "merging.yaml"), "--output", str(folder / "merged")]) == 0
    whole, remarks = AutoModelForImageTextToText.from_pretrained(folder / "merged", output_loading_info=True)
    assert not any(remarks.values())
    expected = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()}
    assert not different_tensors(expected, dict(whole.state_dict()))
