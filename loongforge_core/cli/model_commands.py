"""Commands that run a model: `train`, `evaluate`, `generate`, `import-hf`, `export-hf`. Every rank calls them, in its process groups."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import distributed
from tqdm import tqdm

from loongforge_core.cli.closing import closing_words, exact_match_table
from loongforge_core.cli.run import note, repeated_options
from loongforge_core.config.composition import Composition
from loongforge_core.config.library import published_files
from loongforge_core.data.conversations import ConversationFiles, parse_question
from loongforge_core.data.training_data import load_processors, load_sample_maker
from loongforge_core.errors import CheckpointError, ConfigError, InputError, Issue
from loongforge_core.generate.evaluate import Prediction, answer_questions, open_questions, write_evaluation
from loongforge_core.generate.greedy import GreedyDecoder
from loongforge_core.generate.pictures import draw_loss, draw_predictions
from loongforge_core.model.combination import OmniCombinationModel
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.parallel.launch import agreed
from loongforge_core.registry.registry import Registry
from loongforge_core.train.checkpoint.folders import checkpoints, find_checkpoint
from loongforge_core.train.checkpoint.load import load_model
from loongforge_core.train.checkpoint.save import save_start
from loongforge_core.train.held_out import BEST, best_checkpoint
from loongforge_core.train.loop import train as train_model
from loongforge_core.train.metrics import EVALUATIONS_FILE, METRICS_FILE
from loongforge_core.weights.export_hf import export_hf as write_hf
from loongforge_core.weights.load import import_model, load_pretrained

__all__ = ["evaluate", "export_hf", "generate", "import_hf", "train"]

# ---------------------------------------------------------------------------------------------------------------- commands


def train(args: argparse.Namespace, registry: Registry, composition: Composition) -> int:
    """Trains, or goes on training; then evaluates, draws and exports, as the composition says. 128 + its number where a signal ended it."""
    run, output = composition.run, Path(composition.run.output_dir)
    prepare_data(composition, registry)
    questions = open_questions(Path(run.data.eval_path), composition.modalities) if run.data.eval_path else None
    trained = train_model(composition, registry)
    if trained.ended_by:  # there may be no time for more
        return 128 + trained.ended_by
    model = trained.models[0]
    # Before the evaluation, which may meet an item that cannot be decoded: what was trained is kept then.
    if is_first():
        draw_loss(output / METRICS_FILE, output / "loss.png", composition.name, evaluations=output / EVALUATIONS_FILE)
    if run.train.export_hf:
        write_folder(model, composition, registry, output / "hf")
    predictions: list[Prediction] = []
    if questions is not None:
        answered = trained.predictions
        predictions = answer_all(model, questions, composition, registry) if answered is None else list(answered)
        write_answers(predictions, output, f"{composition.name}: held-out questions", composition, registry)
    if is_first():
        processes = ["--nproc", str(distributed.get_world_size())] if distributed.get_world_size() > 1 else []
        command = [args.config, *args.overrides, *repeated_options(args), *processes]
        names = {file.name for file in published_files(registry.config_folders)}
        print(closing_words(composition, predictions, command=command, published=names))
    return 0


def evaluate(args: argparse.Namespace, registry: Registry, composition: Composition) -> int:
    """Exact match on a file of questions, written beside the run; of another file than `data.eval_path`, into a folder of its own."""
    questions = args.questions or composition.run.data.eval_path
    if questions is None:
        raise ConfigError(Issue("nothing to answer: give --questions FILE, or this setting", key="data.eval_path"))
    if args.questions is None:
        prepare_data(composition, registry)
    output = Path(composition.run.output_dir)
    if args.questions:
        output = output / f"evaluation_{Path(args.questions).stem}"
    conversations = open_questions(Path(questions), composition.modalities)
    model = trained_model(args.checkpoint, composition, registry)
    predictions = answer_all(model, conversations, composition, registry)
    write_answers(predictions, output, f"{composition.name}: {questions}", composition, registry)
    print(exact_match_table(predictions))
    print(f"\n{output}: evaluation.json, predictions.jsonl, predictions.png")
    return 0


def generate(args: argparse.Namespace, registry: Registry, composition: Composition) -> int:
    """Prints the answer to one prompt, and nothing else."""
    question = parse_question(*tagged(args.prompt, args.item), composition.modalities)
    model = trained_model(args.checkpoint, composition, registry)
    decoder = GreedyDecoder(load_sample_maker(composition, registry), model, composition.run.evaluation.max_new_tokens)
    print(decoder.answer([question])[0])
    return 0


def import_hf(args: argparse.Namespace, registry: Registry, composition: Composition) -> int:
    """A checkpoint of step 0 whose weights are those of a Hugging Face folder; training goes on from it."""
    if found := agreed(lambda: checkpoints(Path(args.output))):
        raise CheckpointError(f"{args.output} has checkpoints already, up to step {max(found)}; give another --output")
    read = partial(import_model, args.folder, composition=composition, registry=registry)
    model = OmniModelProvider(composition=composition, registry=registry, fill=read)()
    print(save_start(Path(args.output), [model], composition, registry.fingerprint().splitlines()))
    return 0


def export_hf(args: argparse.Namespace, registry: Registry, composition: Composition) -> int:
    """A Hugging Face folder of a checkpoint; without one, of what the slots' `pretrained` folders come to."""
    starts = [name for name, slot in composition.slots.items() if slot.settings.pretrained]
    if starts and args.checkpoint is None and not agreed(lambda: checkpoints(Path(composition.run.output_dir))):
        read = partial(load_pretrained, composition=composition, registry=registry)
        model = OmniModelProvider(composition=composition, registry=registry, fill=read)()
        note(f"no checkpoint in {composition.run.output_dir}: merging {', '.join(starts)} from pretrained folders")
        if fresh := [name for name in composition.slots if name not in starts]:
            note(f"initial values, not trained: {', '.join(fresh)}")
    else:
        model = trained_model(args.checkpoint, composition, registry)
    write_folder(model, composition, registry, Path(args.output))
    print(args.output)
    return 0


# ------------------------------------------------------------------------------------------------------------ what they share


def is_first() -> bool:
    """Whether this is the rank that writes files which all ranks know the content of. The others' words are not heard (`processes.py`)."""
    return distributed.get_rank() == 0


def prepare_data(composition: Composition, registry: Registry) -> None:
    """Writes the data set that `data.prepare` names, where it is not there yet; other ranks wait for it."""
    data = composition.run.data
    if data.prepare and data.path:
        if is_first():
            registry.load_dataset(registry.dataset(data.prepare))(Path(data.paths[0]).parent)
        distributed.barrier()


def trained_model(checkpoint: str | None, composition: Composition, registry: Registry) -> OmniCombinationModel:
    """From this checkpoint, `best` or the newest of the run. Raises CheckpointError saying where it looked."""
    folder = agreed(lambda: chosen_checkpoint(checkpoint, composition))
    note(f"weights of {folder}")
    model = OmniModelProvider(composition=composition, registry=registry)()
    load_model(folder, [model], composition)
    return model


def chosen_checkpoint(checkpoint: str | None, composition: Composition) -> Path:
    output = Path(composition.run.output_dir)
    if checkpoint is None and not checkpoints(output):
        raise CheckpointError(f"no checkpoint in {output.resolve()}: train {composition.name} first, or give --checkpoint DIR")
    if checkpoint == BEST:
        return best_checkpoint(output)
    return find_checkpoint(Path(checkpoint or output))


def answer_all(
    model: OmniCombinationModel, conversations: ConversationFiles, composition: Composition, registry: Registry
) -> list[Prediction]:
    settings = composition.run.evaluation
    decoder = GreedyDecoder(load_sample_maker(composition, registry), model, settings.max_new_tokens)
    # disable=None: no bar where nobody watches.
    with tqdm(total=len(conversations), desc="answering", unit="question", disable=None, leave=False) as bar:
        return answer_questions(decoder, conversations, batch_size=settings.batch_size, progress=bar.update)


def write_answers(predictions: Sequence[Prediction], folder: Path, title: str, composition: Composition, registry: Registry) -> None:
    if is_first():
        write_evaluation(predictions, folder)
        draw_predictions(predictions, folder / "predictions.png", title, load_processors(composition, registry))


def tagged(prompt: str, given: Sequence[str]) -> tuple[str, dict[str, list[Path]]]:
    """The prompt with a tag for each `MODALITY=PATH` item, at its beginning where it has none, and the items by modality."""
    items: dict[str, list[Path]] = {}
    for text in given:
        modality, equals, path = text.partition("=")
        if not (modality and equals and path):
            raise InputError(f"--item {text}: expected MODALITY=PATH, such as image=photo.png")
        items.setdefault(modality, []).append(Path(path))
    missing = "".join(f"<{modality}>" * (len(paths) - prompt.count(f"<{modality}>")) for modality, paths in items.items())
    return missing + prompt, items


def write_folder(model: OmniCombinationModel, composition: Composition, registry: Registry, folder: Path) -> None:
    tokenizer = composition.run.tokenizer
    stop = load_sample_maker(composition, registry).template.stop_token_ids if tokenizer else ()
    write_hf(model.components(), composition, registry, folder, tokenizer=tokenizer, stop_token_ids=stop)
