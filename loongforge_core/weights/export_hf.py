"""Writes components as Hugging Face folders: the whole model where it has a published format, else one folder per slot.

folder/manifest.json          recipe, slots, components with their distributions and versions, the files of this export
folder/config.json, *.safetensors, generation_config.json, tokenizer and processor      a published format
folder/<slot>/...                                                                       otherwise, each slot its own
"""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError, did_you_mean
from loongforge_core.layers.interfaces import Component
from loongforge_core.registry.registry import Registry
from loongforge_core.weights.config_keys import write_config
from loongforge_core.weights.folder import Chunk, read_json, write_json, write_tensors
from loongforge_core.weights.formats import slot_table, whole_table
from loongforge_core.weights.gathering import WholeTensor, whole_tensors, with_whole_tensors
from loongforge_core.weights.holding import holdings
from loongforge_core.weights.table import Entry, Table
from loongforge_core.weights.tensor_file import TensorType
from loongforge_core.weights.tokenizer import TokenizerFiles

__all__ = ["MANIFEST", "export_component", "export_hf"]

MANIFEST = "manifest.json"

MAX_SHARD_BYTES = 5 * 1000**3
"""As `save_pretrained` had it for years: what servers and downloads are used to."""


def export_hf(
    components: Mapping[str, Component[Any]],
    composition: Composition,
    registry: Registry,
    folder: Path | str,
    *,
    tokenizer: Path | str | None = None,
    stop_token_ids: Collection[int] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes the model's components, given by slot, into `folder`, which appears complete or not at all. To be called on every rank.

    The first rank writes, so many bytes in memory as one rule's tensors; the files do not depend on the layout. `tokenizer` is the folder
    of the tokenizer that goes with the model; its end of sequence and `stop_token_ids` end an answer. Raises WeightsError on every rank
    where `folder` has anything in it that is not an earlier export's, or where the tokenizer does not fit.
    """

    def write(tensors: Mapping[str, WholeTensor]) -> None:
        target = Path(folder).resolve()
        check_target(target)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            files = TokenizerFiles(Path(tokenizer), stop_token_ids) if tokenizer is not None else None
            write_model(partial, tensors, components, composition, registry, files=files, max_shard_bytes=max_shard_bytes)
            replace_folder(target, partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    with_whole_tensors(holdings({f"{slot}.": component for slot, component in components.items()}), write)


def write_model(
    folder: Path,
    tensors: Mapping[str, WholeTensor],
    components: Mapping[str, Component[Any]],
    composition: Composition,
    registry: Registry,
    *,
    files: TokenizerFiles | None,
    max_shard_bytes: int,
) -> None:
    """Everything of an export, into an empty folder."""
    table = whole_table(composition, registry)
    if table is not None:
        configs = {name: slot.config for name, slot in composition.slots.items()}
        write_component(folder, tensors, table, configs, max_shard_bytes=max_shard_bytes)
        write_companions(folder, table, composition, registry, files)
    else:
        for name, slot in composition.slots.items():
            own = {each.removeprefix(f"{name}."): tensor for each, tensor in tensors.items() if each.startswith(f"{name}.")}
            (folder / name).mkdir()
            own_table = slot_table(slot.spec, components[name], registry, own)
            write_component(folder / name, own, own_table, slot.config, max_shard_bytes=max_shard_bytes)
        if files is not None:
            files.write(folder, ())
    write_json(folder / MANIFEST, manifest(folder, composition, registry, published=table is not None))


def export_component(folder: Path, source: Component[Any] | Mapping[str, Component[Any]], table: Table, config: Any) -> None:
    """Writes config.json and the tensors, in the dtype that they have here, of what this process holds into a folder that exists.

    `source` and `config` are a component and its config, or both by slot, as for `import_hf`.
    """
    held = holdings({"": source} if isinstance(source, Component) else {f"{slot}.": part for slot, part in source.items()})
    write_component(folder, whole_tensors(held), table, config, max_shard_bytes=MAX_SHARD_BYTES)


def write_component(folder: Path, tensors: Mapping[str, WholeTensor], table: Table, config: Any, *, max_shard_bytes: int) -> None:
    check_complete(table, tensors)
    tree = write_config(table.keys, config)
    if table.model_type:
        dtype = str(dtype_of_most(tensors.values())).removeprefix("torch.")
        tree |= {"model_type": table.model_type, "architectures": list(table.architectures), "dtype": dtype}
    write_json(folder / "config.json", tree)
    write_tensors(folder, [chunk(entry, tensors) for entry in table.entries], max_shard_bytes=max_shard_bytes)


def dtype_of_most(tensors: Iterable[WholeTensor]) -> torch.dtype:
    """Of most values: the few that are more precise than the rest, such as biases by which experts are chosen, say so themselves."""
    values: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        values[tensor.dtype] += math.prod(tensor.shape)
    return max(values, key=values.__getitem__)


def check_complete(table: Table, held: Mapping[str, WholeTensor]) -> None:
    """Every tensor here is in the table, and the other way round."""
    covered = {name for entry in table.entries for name in entry.ours}
    left = [name for name in held.keys() - covered if not table.is_unpublished(name)]
    problems = [f"our {name} is in no rule of the table{did_you_mean(name, covered)}" for name in sorted(left)]
    problems += [f"a rule of the table names our {name}, which is not here" for name in sorted(covered - held.keys())]
    if problems:
        raise WeightsError("\n".join(["the model does not fit its table:", *(f"  {problem}" for problem in problems)]))


def chunk(entry: Entry, tensors: Mapping[str, WholeTensor]) -> Chunk:
    """What one rule writes."""

    def make() -> Iterator[tuple[str, Tensor]]:
        with torch.no_grad():
            yield from entry.split([tensors[name].whole() for name in entry.ours])

    shapes = entry.their_shapes([tensors[name].shape for name in entry.ours])
    dtype = tensors[entry.ours[0]].dtype
    return Chunk({name: TensorType(dtype, shape) for name, shape in zip(entry.theirs, shapes, strict=True)}, make)


# ------------------------------------------------------------------------------------------------- what lies beside the weights


def write_companions(folder: Path, table: Table, composition: Composition, registry: Registry, tokenizer: TokenizerFiles | None) -> None:
    """Tokenizer, chat template, generation_config.json and processor, and the ids in config.json that come from the tokenizer."""
    recipe = composition.recipe_config
    tokens = {key: recipe.markup(modality).placeholder for key, modality in table.placeholder_ids.items()}
    tokens |= {key: getattr(recipe, name) for key, name in table.token_ids.items()}
    if tokenizer is None:
        if tokens:
            raise WeightsError(f"{table.architectures[0]} needs a tokenizer: config.json holds the id of {', '.join(tokens.values())}")
        return
    foundation = composition.foundation
    tokenizer.write(folder, tuple(tokens.values()), vocab_size=foundation.vocab_size if foundation else None)
    if table.processor is not None:
        tokenizer.write_names(folder, {name: getattr(recipe, token) for name, token in table.processor.tokenizer_names.items()})
    ids = {key: tokenizer.token_id(token) for key, token in tokens.items()}
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **ids})
    if table.generates:
        write_json(folder / "generation_config.json", tokenizer.generation_config())
    if table.processor is not None:
        slot = composition.slots[table.processor.slot]
        token = {key: recipe.markup(slot.name.removesuffix("_encoder")).placeholder for key in [table.processor.token_key] if key}
        write_json(folder / "processor_config.json", {**table.processor.config, **token})
        processor = registry.load(slot.spec, "processor")
        write_json(folder / "preprocessor_config.json", processor(slot.config).published())
        for modality, file in table.processor.more.items():
            write_json(folder / file, processor(slot.config, modality).published())


def manifest(folder: Path, composition: Composition, registry: Registry, *, published: bool) -> dict[str, Any]:
    recipe = registry.origin(composition.recipe)
    return {
        "layout": "published" if published else "slots",
        "recipe": {"name": composition.recipe.name, "distribution": recipe.distribution, "version": recipe.version},
        "slots": {
            name: {
                "component": slot.spec.name,
                "distribution": (origin := registry.origin(slot.spec)).distribution,
                "version": origin.version,
                "config": slot.config.model_dump(mode="json"),
            }
            for name, slot in composition.slots.items()
        },
        "files": sorted([*relative_files(folder), MANIFEST]),
    }


# ------------------------------------------------------------------------------------------------------- complete or not at all


def relative_files(folder: Path) -> Iterable[str]:
    return (str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def check_target(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise WeightsError(f"{target} is a file; expected a folder to export to")
    ours = set(read_json(target / MANIFEST).get("files", [])) if (target / MANIFEST).is_file() else set()
    if others := sorted(set(relative_files(target)) - ours):
        raise WeightsError(f"{target} has files that no earlier export wrote: {', '.join(others[:5])}; export into an empty folder")


def replace_folder(target: Path, finished: Path) -> None:
    """Puts `finished` in the place of `target`, an earlier export or nothing."""
    earlier = finished.with_suffix(".earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    if target.exists():
        target.rename(earlier)
    finished.rename(target)
    shutil.rmtree(earlier, ignore_errors=True)
