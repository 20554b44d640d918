"""The training data of a run: the micro-batches of any step, for any data-parallel rank."""

from __future__ import annotations

import multiprocessing
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from loongforge_core.component import Augmentation, Processor
from loongforge_core.config.composition import Composition
from loongforge_core.data.collate import collate, collate_packed
from loongforge_core.data.conversations import Conversation, ConversationFiles
from loongforge_core.data.sample import Sample, SampleMaker
from loongforge_core.data.sampler import Place, Sampler, micro_batches
from loongforge_core.data.template import ChatTemplate
from loongforge_core.errors import ConfigError, DataError, Issue
from loongforge_core.model.batch import Batch
from loongforge_core.registry import Registry

__all__ = ["TrainingData", "load_processors", "load_sample_maker"]

CACHED_LINES = 16384
"""Parsed lines that are kept."""
PREFETCHED_STEPS = 2
"""Steps that each worker process prepares ahead."""


def load_processors(composition: Composition, registry: Registry) -> dict[str, Processor[Any]]:
    """The processor of every modality that the composition encodes."""
    slots = {modality: composition.encoder_of(modality) for modality in composition.modalities}
    return {modality: registry.load(slot.spec, "processor")(slot.config, modality) for modality, slot in slots.items()}


def load_sample_maker(composition: Composition, registry: Registry) -> SampleMaker:
    """What turns conversations into samples and prompts, for training, evaluation and generation alike."""
    if composition.run.tokenizer is None:
        raise ConfigError(Issue("conversations need a tokenizer: a Hugging Face tokenizer folder", key="tokenizer"))
    markups = {modality: composition.recipe_config.markup(modality) for modality in composition.modalities}
    template = ChatTemplate(Path(composition.run.tokenizer), markups)
    return SampleMaker(composition, template, load_processors(composition, registry))


class TrainingData:
    """The conversations of `data.path`, in the run's order."""

    def __init__(self, composition: Composition, registry: Registry) -> None:
        """Opens the data files and the tokenizer. Raises DataError or ConfigError for what is wrong with them."""
        run = composition.run
        if run.data.path is None:
            raise ConfigError(Issue("training needs data: a file of JSON lines, or a list of files", key="data.path"))
        paths = [run.data.path] if isinstance(run.data.path, str) else run.data.path
        self.run = run
        self.maker = load_sample_maker(composition, registry)
        self.conversations = ConversationFiles([Path(path) for path in paths], composition.modalities)
        self.sampler = Sampler(
            num_samples=len(self.conversations),
            global_batch_size=run.train.global_batch_size,
            seed=run.train.seed,
            shuffle=run.data.shuffle,
        )
        self._augment_settings = {  # checked with the composition (`config/check.py`): here they only become what processors take
            modality: config.model_validate(values)
            for modality, values in run.data.augment.items()
            if (config := self.maker.processors[modality].augment_config)
        }
        self._lines: OrderedDict[int, Conversation] = OrderedDict()

    def __len__(self) -> int:
        return len(self.conversations)

    def batches(self, step: int, *, rank: int = 0, size: int = 1) -> list[Batch]:
        """The micro-batches of a step (the first step is 0) for one of `size` data-parallel ranks.

        They depend on nothing but their arguments and the run's settings.
        """
        places = self.sampler.share(step, rank=rank, size=size)
        together = collate_packed if self.run.data.packing else collate
        return [
            together([self._sample(place, step) for place in micro_batch])
            for micro_batch in micro_batches(places, self.run.train.micro_batch_size)
        ]

    def stream(self, first_step: int, *, rank: int = 0, size: int = 1) -> Iterator[list[Batch]]:
        """`batches` of `first_step` and all that follow to the end of the run, prepared ahead by `data.num_workers` processes."""
        steps = range(first_step, self.run.train.steps)
        if not self.run.data.num_workers:
            for step in steps:
                yield self.batches(step, rank=rank, size=size)
            return
        # Forking a process that has threads (gloo, OpenMP) may hang; a server that forks before there are any does not.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        loader: DataLoader[Any] = DataLoader(
            _Steps(self, rank, size),
            batch_size=None,
            sampler=steps,
            num_workers=self.run.data.num_workers,
            prefetch_factor=PREFETCHED_STEPS,
            collate_fn=_as_is,
            multiprocessing_context=context,
            # Its own generator: the loader draws a seed for its workers, and the run's random numbers must not notice.
            generator=torch.Generator(),
        )
        for batches in loader:
            if isinstance(batches, DataError):
                raise batches
            yield batches

    def _sample(self, place: Place, step: int) -> Sample:
        conversation = self._line(place.index)
        if not self._augment_settings or not conversation.items:
            return self.maker.sample(conversation)
        random, progress = self.sampler.random(place), step / self.run.train.steps
        augmentations = {
            modality: Augmentation(random=random, progress=progress, settings=settings)
            for modality, settings in self._augment_settings.items()
        }
        return self.maker.sample(conversation, augmentations)

    def _line(self, index: int) -> Conversation:
        if index not in self._lines:
            self._lines[index] = self.conversations[index]
            if len(self._lines) > CACHED_LINES:
                self._lines.popitem(last=False)
        return self._lines[index]


class _Steps(Dataset[Any]):
    """Steps as a worker process makes them. A user's error travels as a value: raised there, it would arrive as a traceback in its text."""

    def __init__(self, data: TrainingData, rank: int, size: int) -> None:
        self.data = data
        self.rank = rank
        self.size = size

    def __getitem__(self, step: int) -> list[Batch] | DataError:
        torch.set_num_threads(1)
        try:
            return self.data.batches(step, rank=self.rank, size=self.size)
        except DataError as error:
            return error


def _as_is(value: Any) -> Any:
    return value
