"""The files and folders that a configuration names: `pkg://` is looked up, and what must exist is checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from loongforge_core.config.composition import Slot
from loongforge_core.config.sentences import Findings
from loongforge_core.config.settings import DataSettings, RunSettings, WeightedFiles
from loongforge_core.errors import PluginError, near_match
from loongforge_core.registry.registry import PACKAGE_SCHEME, Registry

__all__ = ["locate_run", "locate_slots"]

MOST_HINTS = 50
"""Near names are looked for in a folder, which for thousands of missing files takes long and helps nobody."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
"""One of these is what transformers' `AutoTokenizer` needs."""


def locate_run(run: RunSettings, registry: Registry, findings: Findings) -> RunSettings:
    """The settings with real paths instead of `pkg://`; what is missing, or not what it should be, is noted."""
    data = run.data
    tokenizer = None
    if run.tokenizer is not None:
        tokenizer = located_path(run.tokenizer, "tokenizer", "folder", registry, findings)
        check_content(tokenizer, "tokenizer", [TOKENIZER_FILES], findings)
    path = located_data(data, registry, findings)
    eval_path = data.eval_path
    if eval_path is not None:
        eval_path = located_path(eval_path, "data.eval_path", expected_kind(eval_path, data), registry, findings)
    check_output(run, findings)
    return run.model_copy(update={"tokenizer": tokenizer, "data": data.model_copy(update={"path": path, "eval_path": eval_path})})


def locate_slots(slots: Mapping[str, Slot], registry: Registry, findings: Findings) -> dict[str, Slot]:
    """The slots with real paths of the folders that they start from."""
    located = dict(slots)
    for name, slot in slots.items():
        if (pretrained := slot.settings.pretrained) is not None:
            path = located_path(pretrained, f"model.{name}.pretrained", "folder", registry, findings)
            check_content(path, f"model.{name}.pretrained", [("config.json",), ("*.safetensors",)], findings)
            located[name] = replace(slot, settings=slot.settings.model_copy(update={"pretrained": path}))
    return located


def located_data(data: DataSettings, registry: Registry, findings: Findings) -> str | list[str | WeightedFiles] | None:
    """`data.path`, in the form in which it is written."""

    def located(path: str, key: str) -> str:
        return located_path(path, key, expected_kind(path, data), registry, findings)

    if data.path is None or isinstance(data.path, str):
        return None if data.path is None else located(data.path, "data.path")
    files: list[str | WeightedFiles] = []
    for number, source in enumerate(data.path):
        if isinstance(source, str):
            files.append(located(source, "data.path"))
        else:
            found = [located(path, f"data.path.{number}.path") for path in source.paths]
            files.append(source.model_copy(update={"path": found[0] if isinstance(source.path, str) else found}))
    return files


def expected_kind(path: str, data: DataSettings) -> str:
    """Data that a plugin will write need not be there yet: whatever lies in the folder of the first data file."""
    if data.prepare is None or not data.paths:
        return "file"
    return "any" if Path(path).parent == Path(data.paths[0]).parent else "file"


def located_path(given: str, key: str, kind: str, registry: Registry, findings: Findings) -> str:
    path = given
    if given.startswith(PACKAGE_SCHEME):
        try:
            path = str(registry.resource(given))
        except PluginError as error:
            findings.add(key, str(error))
            return given
    exists = {"file": os.path.isfile(path), "folder": os.path.isdir(path), "any": True}[kind]
    if not exists:
        hint = hint_about(path, kind, findings.provenance.where(key)) if len(findings.issues) < MOST_HINTS else ""
        findings.add(key, f"missing {kind} {given!r}{hint}")
    return path


def check_content(folder: str, key: str, expected: Sequence[Sequence[str]], findings: Findings) -> None:
    """Whether a folder that is there holds a file of each of these groups of patterns."""
    if not os.path.isdir(folder):
        return  # noted already
    for patterns in expected:
        if not any(any(Path(folder).glob(pattern)) for pattern in patterns):
            findings.add(key, f"the folder {folder!r} has no {' or '.join(patterns)}; expected a Hugging Face folder")
            return


def check_output(run: RunSettings, findings: Findings) -> None:
    """Whether output_dir is a folder or can become one. A command that reads no data may look at a run that it cannot write to."""
    given = Path(run.output_dir).absolute()
    there = next(path for path in (given, *given.parents) if path.exists())
    if not there.is_dir():
        findings.add("output_dir", f"{run.output_dir!r}: {there} is a file; expected a folder, or a path where one can be made")
    elif run.data.path is not None and not os.access(there, os.W_OK | os.X_OK):
        findings.add("output_dir", f"{run.output_dir!r}: the folder {there} cannot be written to")


def hint_about(path: str, kind: str, where: str) -> str:
    """What the path was taken from, and the nearest name there; or the file beside the YAML that was probably meant."""
    if os.path.exists(path):
        return f": it is there, but it is no {kind}"
    beside = Path(where.rpartition(":")[0]).parent / path
    if not Path(path).is_absolute() and os.path.exists(beside):
        return f" in the working directory {Path.cwd()}; did you mean {str(beside)!r}?"
    folder = Path(path).parent
    if not os.path.isdir(folder):
        hub = "; nothing is downloaded: give the path of a folder" if kind == "folder" and re.fullmatch(r"[\w.-]+/[\w.-]+", path) else ""
        return f": there is no folder {folder.resolve()}{hub}"
    near = near_match(Path(path).name, [entry.name for entry in folder.iterdir()])
    where = "" if Path(path).is_absolute() else f" in {folder.resolve()}"
    return f"{where}{near}"
