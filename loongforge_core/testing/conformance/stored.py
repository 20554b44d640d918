"""What is stored comes back: checkpoints, and Hugging Face folders in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loongforge_core.data.collate import collate
from loongforge_core.layers.interfaces import Component
from loongforge_core.model.batch import Batch
from loongforge_core.model.provider import OmniModelProvider
from loongforge_core.testing.conformance.references import reference_of
from loongforge_core.testing.conformance.samples import samples
from loongforge_core.testing.conformance.subject import Subject, fresh
from loongforge_core.testing.conformance.trials import built, in_one_process
from loongforge_core.testing.reference import different_tensors, read_tensors, redraw, save_reference
from loongforge_core.train.checkpoint.load import load_checkpoint
from loongforge_core.train.checkpoint.record import Record, model_of
from loongforge_core.train.checkpoint.save import save_checkpoint
from loongforge_core.train.step import Trainer, build_trainer
from loongforge_core.weights.config_keys import config_fields, write_config
from loongforge_core.weights.export_hf import export_component
from loongforge_core.weights.formats import slot_table
from loongforge_core.weights.import_hf import import_hf
from loongforge_core.weights.table import Table

__all__ = ["checkpoint", "hf_round_trip"]


# ---- checkpoints


def checkpoint(subject: Subject) -> Iterator[str]:
    batches = [collate([each]) for each in samples(subject)]
    with in_one_process():
        trainer = trainer_of(subject)
        trainer.step(batches)
        record = Record(step=1, model=model_of(subject.composition), numbers={}, plugins=())
        folder = save_checkpoint(fresh(subject, "checkpoint"), trainer, record)
        again = trainer_of(subject)
        load_checkpoint(folder, again)
        yield from (f"{name} is not what was saved" for name in unlike_tensors(trainer, again))
        yield from steps_differ(trainer, again, batches)


def trainer_of(subject: Subject) -> Trainer:
    return build_trainer(subject.composition, [OmniModelProvider(composition=subject.composition, registry=subject.neighbourhood)()])


def unlike_tensors(trainer: Trainer, again: Trainer) -> Iterator[str]:
    """Those that are in the state, and buffers that are not stored too."""
    for name, tensor in tensors_of(trainer.models[0]).items():
        if not torch.equal(tensor, tensors_of(again.models[0])[name]):
            yield name


def tensors_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def steps_differ(trainer: Trainer, again: Trainer, batches: list[Batch]) -> Iterator[str]:
    one, two = trainer.step(batches), again.step(batches)
    if one != two:
        yield f"the step after loading has loss {two.loss} and gradient norm {two.grad_norm}, without it {one.loss} and {one.grad_norm}"
    if different := list(unlike_tensors(trainer, again)):
        yield f"after the next step {', '.join(different[:4])} differ"


# ---- Hugging Face folders


def hf_round_trip(subject: Subject) -> Iterator[str]:
    """Without a table of its own a component is stored under its own names: that goes out and in too."""
    folder = fresh(subject, "round_trip")
    with built(subject) as component:
        table = slot_table(subject.spec, component, subject.registry)
        before = {name: tensor.clone() for name, tensor in component.state_dict().items() if isinstance(tensor, Tensor)}
        yield from through(component, table, subject, folder / "export")
        yield from config_read_back(table, subject.config)
        redraw(component, seed=7)
        import_hf(folder / "export", component, table, component.config)
        changed = [name for name, tensor in before.items() if not torch.equal(component.state_dict()[name], tensor)]
        unpublished = [name for name in changed if not table.is_unpublished(name)]
        if unpublished:
            yield f"written and read again, {', '.join(unpublished[:6])} are not what they were"
        if (reference := reference_of(subject, table)) is None:
            return
        redraw(reference)
        save_reference(reference, folder / "reference", table, component.config)
        import_hf(folder / "reference", component, table, component.config)
        yield from through(component, table, subject, folder / "again")
        theirs = {table.canonical(name) or name: tensor for name, tensor in read_tensors(folder / "reference").items()}
        theirs = {name: tensor for name, tensor in theirs.items() if not table.is_ignored(name)}
        if different := different_tensors(theirs, read_tensors(folder / "again")):
            yield f"a folder of {subject.spec.reference}, read and written again, is not the same: {different[:6]}"


def config_read_back(table: Table, config: Any) -> Iterator[str]:
    """What config.json says of a format's own is what our config says."""
    if not table.model_type:
        return
    written = write_config(table.keys, config)
    again = type(config).model_validate({**config.model_dump(exclude_unset=True), **config_fields(table.keys, written)})
    if (other := write_config(table.keys, again)) != written:
        wrong = {name: (value, other.get(name)) for name, value in written.items() if other.get(name) != value}
        yield f"config.json, read and written again, says another thing: {wrong}"


def through(component: Component[Any], table: Table, subject: Subject, folder: Path) -> Iterator[str]:
    folder.mkdir(parents=True)
    export_component(folder, component, table, component.config)
    if not read_tensors(folder) and list(component.parameters()):
        yield "an export has no tensor"
