"""A modality that no plugin has, tokenizer folders with chat templates of every kind, and compositions made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from loongforge_core.component import (
    Augmentation,
    BackboneConfig,
    ComponentSpec,
    EncoderConfig,
    ItemMarkup,
    ItemSpan,
    ProcessedItem,
    Processor,
    RecipeConfig,
    Shape,
)
from loongforge_core.config.composition import Composition, Slot
from loongforge_core.config.settings import RunSettings, SlotSettings, TrainSettings
from loongforge_core.config.slot_names import encoder_slot
from loongforge_core.data.sample import SampleMaker
from loongforge_core.data.template import ChatTemplate
from loongforge_core.errors import DataError

VOCAB_SIZE = 264
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class SeriesConfig(EncoderConfig):
    """Two numbers give one token."""

    @property
    def feature_size(self) -> int:
        return 1

    def token_grid(self, size: Shape) -> Shape:
        if size[0] % 2:
            raise ValueError(f"{size[0]} numbers are not a multiple of 2")
        return (size[0] // 2,)


class SeriesProcessor(Processor[SeriesConfig]):
    """A text file of numbers."""

    def __call__(self, path: Path, augmentation: Augmentation | None = None) -> ProcessedItem:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        values = np.array(path.read_text().split(), dtype=np.float32)[:, None]
        return ProcessedItem({"values": values}, (len(values),))


class MarkupRecipe(RecipeConfig):
    """Items between two marks; positions of one axis or of three."""

    axes: int = 1

    def markup(self, modality: str) -> ItemMarkup:
        return ItemMarkup(f"<|{modality}_pad|>", before="[", after="]")

    @property
    def position_axes(self) -> int:
        return self.axes

    def position_ids(self, length: int, spans: Sequence[ItemSpan]) -> np.ndarray:
        positions = super().position_ids(length, spans)
        return positions if self.axes == 1 else np.stack([positions, 10 * positions, 100 * positions])


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Writes JSON lines (objects, or strings as they are) and returns the file."""

    def write(*lines: object, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_tokenizer(tmp_path: Path) -> Callable[..., Path]:
    """Saves a byte-level tokenizer with a chat template and returns its folder."""

    def make(template: str | None = CHATML, *, special: Sequence[str] = ("<|im_start|>", "<|im_end|>"), name: str = "tokenizer") -> Path:
        characters = bytes_to_unicode()
        tokenizer = Tokenizer(models.BPE(vocab={characters[byte]: byte for byte in range(256)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        folder = tmp_path / name
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def make_maker(make_tokenizer: Callable[..., Path]) -> Callable[..., SampleMaker]:
    """A sample maker for a composition that encodes `modalities`."""

    def make(
        template: str | None = CHATML,
        *,
        modalities: Sequence[str] = ("series",),
        axes: int = 1,
        recipe: RecipeConfig | None = None,
        vocab_size: int = VOCAB_SIZE,
        seq_length: int = 200,
        **tokenizer: Any,
    ) -> SampleMaker:
        recipe = recipe or MarkupRecipe(axes=axes)
        processors = {modality: SeriesProcessor(SeriesConfig()) for modality in modalities}
        composition = make_composition(modalities, recipe, vocab_size=vocab_size, seq_length=seq_length)
        markups = {modality: recipe.markup(modality) for modality in modalities}
        return SampleMaker(composition, ChatTemplate(make_tokenizer(template, **tokenizer), markups), processors)

    return make


def make_composition(modalities: Sequence[str], recipe: RecipeConfig, *, vocab_size: int, seq_length: int) -> Composition:
    series = ComponentSpec(kind="encoder", name="series", summary="", modalities=tuple(modalities), config="unused:unused")
    backbone = ComponentSpec(kind="backbone", name="tiny", summary="", config="unused:unused")
    slots: Mapping[str, Slot] = {
        **{
            encoder_slot(modality): Slot(encoder_slot(modality), series, SeriesConfig(), SlotSettings(type="series"))
            for modality in modalities
        },
        "foundation": Slot(
            "foundation", backbone, BackboneConfig(num_layers=1, hidden_size=4, vocab_size=vocab_size), SlotSettings(type="tiny")
        ),
    }
    return Composition(
        name="test",
        slots=slots,
        recipe=ComponentSpec(kind="recipe", name="marked", summary="", config="unused:unused"),
        recipe_config=recipe,
        run=RunSettings(train=TrainSettings(seq_length=seq_length)),
        resolved={},
    )
