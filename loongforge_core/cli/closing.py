"""The last words of `train`: how good it is, where everything lies, what to do next."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from loongforge_core.config.composition import Composition
from loongforge_core.generate.evaluate import Prediction, exact_match

__all__ = ["closing_words", "exact_match_table"]

FILES = {
    "predictions.png": "held-out questions with answer and truth, wrong ones first",
    "loss.png": "loss and learning rate over the steps",
    "evaluation.json": "the numbers above; predictions.jsonl has every answer",
    "metrics.jsonl": "every step; also for TensorBoard",
    "evaluations.jsonl": "held-out loss and exact match on the way; --checkpoint best takes the best of them",
    "checkpoints": "the same command again goes on from the newest",
    "hf": "the same model as a Hugging Face folder",
}


def closing_words(composition: Composition, predictions: Sequence[Prediction], *, command: Sequence[str], published: Container[str]) -> str:
    """`command` is what followed `loongforge train`, so that the commands to try are about the same run.
    `published` are the names that `loongforge show` knows.
    """
    output = Path(composition.run.output_dir)
    blocks = [f"Held-out exact match\n{exact_match_table(predictions)}"] if predictions else []
    there = {name: what for name, what in FILES.items() if (output / name).exists()}
    width = max((len(name) for name in there), default=0)
    blocks.append("\n".join([f"In {output}/", *(f"  {name:<{width}}  {what}" for name, what in there.items())]))
    blocks.append("\n".join(["Try next", *(f"  {line}" for line in what_to_try(predictions, output, command, published))]))
    return "\n" + "\n\n".join(blocks)


def exact_match_table(predictions: Sequence[Prediction]) -> str:
    report = exact_match(predictions)
    width = max(map(len, report))
    return "\n".join(f"  {kind:<{width}}  {found['exact_match']:7.2%} of {found['samples']}" for kind, found in report.items())


def what_to_try(predictions: Sequence[Prediction], output: Path, command: Sequence[str], published: Container[str]) -> Iterator[str]:
    if example := example_question(predictions):
        items = [text for modality, path in example.items for text in ("--item", f"{modality}={path}")]
        yield shlex.join([program(), "generate", *command, "--prompt", example.question, *items])
    yield shlex.join([str(Path(program()).with_name("tensorboard")), "--logdir", str(output)])
    if command[0] in published:
        yield shlex.join([program(), "show", command[0]])


def example_question(predictions: Sequence[Prediction]) -> Prediction | None:
    """One that is answered right, of one turn, with as many items as any."""
    one_turn = [one for one in predictions if one.is_correct and "\n" not in one.question]
    return max(one_turn, key=lambda one: len(one.items), default=None)


def program() -> str:
    """As it has to be typed: `make demo` calls it by its path, and a newcomer's shell does not find it otherwise."""
    called = Path(sys.argv[0])
    return sys.argv[0] if called.name == "loongforge" and shutil.which("loongforge") is None else "loongforge"
