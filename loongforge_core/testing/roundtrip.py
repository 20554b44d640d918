"""Round trip (I3): a Hugging Face folder -> ours -> a Hugging Face folder, bit-exact and complete by the names on disk.

def test_round_trip(tmp_path):
    check_round_trip(Qwen2Config(**SIZES), Qwen2ForCausalLM(transformers.Qwen2Config(**THEIRS)), tmp_path)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from loongforge_core.component import ComponentConfig
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import Ours, different_tensors, ours, read_tensors, redraw, save_reference
from loongforge_core.weights.export_hf import export_component
from loongforge_core.weights.folder import read_json
from loongforge_core.weights.import_hf import import_hf
from loongforge_core.weights.table import Table

__all__ = ["check_loads_without_remarks", "check_round_trip", "check_same_folder", "check_through"]


def check_round_trip(
    config: ComponentConfig, reference: nn.Module, folder: Path, *, registry: Registry | None = None, table: Table | None = None
) -> None:
    """Of one component, by its own table."""
    with ours(config, registry=registry, table=table) as built:
        check_through(built, reference, folder)


def check_through(built: Ours, reference: nn.Module, folder: Path) -> None:
    """Through ours and back once, and a second time from our own export; the reference's class reads the export without remarks."""
    redraw(reference)
    save_reference(reference, folder / "reference", built.table, built.config)
    for source, target in (("reference", "export"), ("export", "second_export")):
        import_hf(folder / source, built.target, built.table, built.config)
        (folder / target).mkdir()
        export_component(folder / target, built.target, built.table, built.config)
        redraw(built.model, seed=1)
    check_same_folder(folder / "reference", folder / "export", built.table)
    different = different_tensors(read_tensors(folder / "export"), read_tensors(folder / "second_export"))
    assert not different, f"an export, read and exported again, differs in {different[:8]}"
    if hasattr(reference, "save_pretrained"):
        check_loads_without_remarks(reference, folder / "export", folder / "resaved")


def check_same_folder(reference: Path, export: Path, table: Table) -> None:
    """The same tensors, under the same names; a name that the table knows as another spelling of a published one counts as that one."""
    before = {table.canonical(name) or name: tensor for name, tensor in read_tensors(reference).items()}
    different = different_tensors(before, read_tensors(export))
    assert not different, f"not the same on both sides: {different[:8]}"


def check_loads_without_remarks(reference: Any, export: Path, resaved: Path) -> None:
    """The reference's class finds every tensor, none too many, the same values and the same config, and saves the same names again."""
    loaded, remarks = type(reference).from_pretrained(export, output_loading_info=True)
    assert not any(remarks.values()), f"{type(reference).__name__}.from_pretrained remarks: {remarks}"
    different = different_tensors(dict(reference.state_dict()), dict(loaded.state_dict()))
    assert not different, f"loaded from the export, {different[:8]} differ from the reference"
    theirs, given = (meaning(model.config.to_dict()) for model in (reference, loaded))
    wrong = {name: (given.get(name), theirs.get(name)) for name in given.keys() | theirs.keys() if given.get(name) != theirs.get(name)}
    assert not wrong, f"config.json says another thing than the reference's (ours, theirs): {wrong}"
    loaded.save_pretrained(resaved)
    names = read_tensors(resaved).keys() ^ read_tensors(export).keys()
    assert not names, f"the reference's class would save other names than we did: {sorted(names)[:8]}"
    assert read_json(resaved / "config.json")["architectures"] == read_json(export / "config.json")["architectures"]


NO_MEANING = ("_name_or_path", "transformers_version", "architectures", "dtype", "initializer_range")
"""Keys that do not change what is computed from given weights."""


def meaning(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {name: meaning(value) for name, value in tree.items() if name not in NO_MEANING and value is not None}
