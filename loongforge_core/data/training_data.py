"""The training data of a run: the micro-batches of any step, for any data-parallel rank."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from loongforge_core.component import Augmentation, Processor
from loongforge_core.config.composition import Composition
from loongforge_core.config.settings import RunSettings
from loongforge_core.data.collate import collate, collate_packed
from loongforge_core.data.conversations import Conversation, ConversationFiles
from loongforge_core.data.line_index import UnreadableFile
from loongforge_core.data.lines import is_large, open_lines
from loongforge_core.data.sample import Sample, SampleMaker
from loongforge_core.data.sampler import Place, Sampler, micro_batches
from loongforge_core.data.skipped import SkippedLine
from loongforge_core.data.template import ChatTemplate
from loongforge_core.errors import ConfigError, DataError, Issue, LoongForgeError
from loongforge_core.model.batch import Batch
from loongforge_core.parallel.launch import agreed
from loongforge_core.registry import Registry

__all__ = ["Step", "TrainingData", "find_lines", "load_processors", "load_sample_maker"]

KEPT_BYTES = 32 * 2**20
"""Data files that are no larger together are kept, parsed, once their lines were read."""
PREFETCHED_STEPS = 2
"""Steps that each worker process prepares ahead."""
MOST_ATTEMPTS = 100
"""Lines that are tried in one place. Where so many, drawn one after another, cannot be used, something is wrong with all of them."""
FINDING_TIMEOUT = timedelta(days=1)
"""How long ranks wait for one that looks through its files; terabytes on a slow disk take hours."""
INDEX_FOLDER = "indexes"
"""Under `output_dir`, where an index cannot lie beside its data."""


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


@dataclass(frozen=True)
class Step:
    """What one data-parallel rank has of a step."""

    batches: tuple[Batch, ...]
    skipped: tuple[SkippedLine, ...] = ()
    """Lines in whose places others stand."""


def find_lines(run: RunSettings) -> None:
    """Has the lines of large data files found by one rank each, before all ranks open them. All ranks call it.

    Says nothing of what is wrong with a file: every rank will. Where no rank can keep what it has found, each will find it again.
    """
    rank, size = distributed.get_rank(), distributed.get_world_size()
    if size == 1 or not agreed(lambda: any(map(is_large, map(Path, run.data.paths)))):
        return
    group = distributed.new_group(backend="gloo", timeout=FINDING_TIMEOUT)
    for path in run.data.paths[rank::size]:
        with contextlib.suppress(DataError):
            open_lines(Path(path), elsewhere=Path(run.output_dir) / INDEX_FOLDER)
    distributed.barrier(group=group)
    distributed.destroy_process_group(group)


class TrainingData:
    """The conversations of `data.path`, in the run's order."""

    def __init__(self, composition: Composition, registry: Registry) -> None:
        """Opens the data files and the tokenizer. Raises DataError or ConfigError for what is wrong with them."""
        run = composition.run
        if not (sources := run.data.sources):
            raise ConfigError(Issue("training needs data: a file of JSON lines, or a list of files", key="data.path"))
        self.run = run
        self.maker = load_sample_maker(composition, registry)
        self.conversations = ConversationFiles(
            [Path(path) for source in sources for path in source.paths],
            composition.modalities,
            indexes=Path(run.output_dir) / INDEX_FOLDER,
            check=run.data.on_error == "stop",
        )
        lengths = iter(map(len, self.conversations.files))
        self.sampler = Sampler(
            sizes=[sum(next(lengths) for _ in source.paths) for source in sources],
            weights=[source.weight for source in sources],
            global_batch_size=run.train.global_batch_size,
            seed=run.train.seed,
            shuffle=run.data.shuffle,
        )
        self._augment_settings = {  # checked with the composition (`config/check.py`): here they only become what processors take
            modality: config.model_validate(values)
            for modality, values in run.data.augment.items()
            if (config := self.maker.processors[modality].augment_config)
        }
        are_small = sum(file.size for file in self.conversations.files) <= KEPT_BYTES
        self._kept: dict[int, Conversation] | None = {} if are_small else None

    def __len__(self) -> int:
        return len(self.conversations)

    def batches(self, step: int, *, rank: int = 0, size: int = 1) -> list[Batch]:
        """The micro-batches of a step (the first step is 0) for one of `size` data-parallel ranks.

        They depend on nothing but their arguments and the run's settings.
        """
        return list(self.step(step, rank=rank, size=size).batches)

    def step(self, step: int, *, rank: int = 0, size: int = 1) -> Step:
        """`batches`, and the lines that could not be used."""
        skipped: list[SkippedLine] = []
        samples = [self._usable_sample(place, step, skipped) for place in self.sampler.share(step, rank=rank, size=size)]
        together = collate_packed if self.run.data.packing else collate
        return Step(
            batches=tuple(together(micro_batch) for micro_batch in micro_batches(samples, self.run.train.micro_batch_size)),
            skipped=tuple(skipped),
        )

    def stream(self, first_step: int, *, rank: int = 0, size: int = 1) -> Iterator[Step]:
        """`first_step` and all that follow to the end of the run, prepared ahead by `data.num_workers` processes."""
        steps = range(first_step, self.run.train.steps)
        if not self.run.data.num_workers:
            for step in steps:
                yield self.step(step, rank=rank, size=size)
            return
        # Forking a process that has threads (gloo, OpenMP) may hang; a server that forks before there are any does not.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        loader: DataLoader[Any] = DataLoader(
            Steps(self, rank, size),
            batch_size=None,
            sampler=steps,
            num_workers=self.run.data.num_workers,
            prefetch_factor=PREFETCHED_STEPS,
            collate_fn=as_is,
            multiprocessing_context=context,
            worker_init_fn=partial(end_with, os.getpid()),
            # Its own generator: the loader draws a seed for its workers, and the run's random numbers must not notice.
            generator=torch.Generator(),
        )
        with without_notices():
            iterator = iter(loader)
        for _ in steps:
            prepared = next_of(iterator)
            if isinstance(prepared, LoongForgeError):
                raise prepared
            yield prepared

    def _usable_sample(self, place: Place, step: int, skipped: list[SkippedLine]) -> Sample:
        """The sample of a place. Where its line cannot be used and others may be skipped, another one's, and the line is noted.

        What is taken depends on nothing but the place, so that ranks need not tell each other, and a batch is as large as ever.
        """
        tried = place
        for attempt in range(MOST_ATTEMPTS):
            try:
                return self._sample(tried, step)
            except UnreadableFile:
                raise
            except DataError as error:
                if self.run.data.on_error == "stop":
                    raise
                skipped.append(SkippedLine.of(*self.conversations.locate(tried.index), error))
                tried, last = self.sampler.substitute(place, attempt), error
        raise DataError(
            f"{MOST_ATTEMPTS} lines, drawn one after another, cannot be used, so none is skipped any more; the last of them is\n  {last}"
        )

    def _sample(self, place: Place, step: int) -> Sample:
        conversation = self._conversation(place.index)
        if not self._augment_settings or not conversation.items:
            return self.maker.sample(conversation)
        random, progress = self.sampler.random(place), step / self.run.train.steps
        augmentations = {
            modality: Augmentation(random=random, progress=progress, settings=settings)
            for modality, settings in self._augment_settings.items()
        }
        return self.maker.sample(conversation, augmentations)

    def _conversation(self, index: int) -> Conversation:
        if self._kept is None:
            return self.conversations[index]
        if index not in self._kept:
            self._kept[index] = self.conversations[index]
        return self._kept[index]


class Steps(Dataset[Any]):
    """Steps as a worker process makes them. A user's error travels as a value: raised there, it would arrive as a traceback in its text."""

    def __init__(self, data: TrainingData, rank: int, size: int) -> None:
        self.data = data
        self.rank = rank
        self.size = size

    def __getitem__(self, step: int) -> Step | LoongForgeError:
        torch.set_num_threads(1)
        try:
            return self.data.step(step, rank=self.rank, size=self.size)
        except LoongForgeError as error:
            return error


def as_is(value: Any) -> Any:
    return value


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Processes that are started within do not hear that the job shall end: the training process does, and needs them until it does."""
    resource_tracker.ensure_running()  # which would let SIGTERM through again, were it started with the others
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with(trainer: int, _: int) -> None:
    """In a worker process: the training process may end it, and nobody else who sends SIGTERM."""

    def listen() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
            pass
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()


def next_of(iterator: Iterator[Any]) -> Any:
    try:
        return next(iterator)
    except (RuntimeError, EOFError, OSError) as error:  # the last two where it is gone before what it has prepared was fetched
        if "in DataLoader worker process" in str(error):  # raised by what the worker did
            raise
        why = str(error) or type(error).__name__
        raise LoongForgeError(
            f"a process that prepares samples is gone ({why}): was it killed, as happens where memory runs out? "
            "data.num_workers says how many there are"
        ) from error
