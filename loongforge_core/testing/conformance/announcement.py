"""What a plugin announces: the specification's strings, how light it is to look at, and the config's schema."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any, get_args

from pydantic import ValidationError

from loongforge_core.component import SLOT_KEYS, ComponentConfig, ComponentSpec
from loongforge_core.errors import LoongForgeError
from loongforge_core.registry.hooks import ENTRY_POINT_GROUP
from loongforge_core.registry.registry import Part
from loongforge_core.testing.conformance.subject import NotApplicable, Subject

__all__ = ["light_import", "schema", "specification"]


def specification(subject: Subject) -> Iterator[str]:
    spec = subject.spec
    if not spec.summary.strip() or "\n" in spec.summary.strip():
        yield f"the summary is {spec.summary!r}, expected one line for `loongforge list`"
    if not spec.model and spec.kind != "recipe":
        yield f"it names no model; a {spec.kind} has one"
    broken = [str(error) for part in get_args(Part) if getattr(spec, part) and (error := load_error(subject, part))]
    if broken:
        yield from broken
        return
    wrong = list(of_the_wrong_kind(subject))
    if wrong:
        yield from wrong
        return
    if spec.kind == "recipe":
        subject.config_class()
        return
    try:
        subject.compose()
    except LoongForgeError as error:
        yield from cannot_be_composed(subject, error)
        return
    yield from cannot_be_built(subject)


def load_error(subject: Subject, part: Any) -> LoongForgeError | None:
    try:
        subject.registry.load(subject.spec, part)
    except LoongForgeError as error:
        return error
    return None


def of_the_wrong_kind(subject: Subject) -> Iterator[str]:
    from loongforge_core.layers import interfaces

    spec = subject.spec
    if spec.weights and not callable(subject.registry.load(spec, "weights")):
        yield f"weights names {spec.weights}, which is no function of a config"
    if not spec.model:
        return
    base: type = getattr(
        interfaces, {"encoder": "Encoder", "projector": "Projector", "backbone": "Backbone", "recipe": "Recipe"}[spec.kind]
    )
    model = subject.registry.load(spec, "model")
    if not (isinstance(model, type) and issubclass(model, base)):
        yield f"model names {spec.model}, expected a subclass of loongforge_core.{base.__name__}"


def cannot_be_composed(subject: Subject, error: LoongForgeError) -> Iterator[str]:
    tiny = dict(subject.config_class.tiny)
    what = f"at its `tiny` size {tiny}" if tiny else "with its default sizes (its config class declares no `tiny` ones)"
    yield f"{what} it cannot be put between the judge's neighbours: " + "; ".join(str(error).splitlines())


def cannot_be_built(subject: Subject) -> Iterator[str]:
    from loongforge_core.testing.conformance.judge import raised
    from loongforge_core.testing.conformance.references import names_nothing
    from loongforge_core.testing.conformance.trials import built

    try:
        with built(subject):
            if missing := names_nothing(subject.spec.reference):
                yield missing
    except NotApplicable as too_large:
        yield f"{str(too_large).partition(': see')[0]}; declare `tiny: ClassVar[Mapping[str, Any]]` with settings of a width of 16 or so"
    except Exception as error:
        yield f"built at its tiny size, {raised(error)}"


# ---- light


IMPORT_EACH = """
import contextlib, importlib, io, json, sys
sys.path[:] = json.loads(sys.argv[1])
for name in json.loads(sys.argv[2]):
    before, printed, said = set(sys.modules), io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            importlib.import_module(name)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    heavy = [each for each in ("torch", "megatron.core", "transformers") if each in sys.modules and each not in before]
    print(json.dumps({"module": name, "failed": said, "heavy": heavy, "printed": printed.getvalue()}))
"""


def light_import(subject: Subject) -> Iterator[str]:
    """In a process of its own, which is told where this one finds modules."""
    modules = light_modules(subject.spec)
    arguments = (json.dumps(sys.path), json.dumps(list(modules)))
    ended = subprocess.run([sys.executable, "-c", IMPORT_EACH, *arguments], capture_output=True, text=True, check=False)
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    for answer in answers:
        what = f"{modules[answer['module']]} ({answer['module']})"
        if answer["failed"]:
            yield f"{what} cannot be imported by itself: {answer['failed']}"
        if answer["heavy"]:
            yield f"{what} imports {' and '.join(answer['heavy'])}"
        if answer["printed"]:
            yield f"{what} prints when it is imported: {answer['printed'].splitlines()[0]!r}"
    if len(answers) < len(modules):
        yield f"importing {list(modules)[len(answers)]} ended the process: {ended.stderr.strip()[-300:]}"


def light_modules(spec: ComponentSpec) -> dict[str, str]:
    """What is imported where torch may not be, and what it is to the plugin."""
    package = spec.config.partition(".")[0]
    plugins = [found.module for found in entry_points(group=ENTRY_POINT_GROUP) if found.module.partition(".")[0] == package]
    modules = dict.fromkeys(plugins, "the plugin's module")
    modules.setdefault(spec.config.partition(":")[0], "the config's module")
    if spec.processor:
        modules.setdefault(spec.processor.partition(":")[0], "the processor's module")
    return modules


# ---- schema


def schema(subject: Subject) -> Iterator[str]:
    config_class = subject.config_class
    for key, expected in (("frozen", True), ("extra", "forbid"), ("strict", True)):
        if (given := config_class.model_config.get(key)) != expected:
            yield f"its `model_config` has {key} {given!r}, expected {expected!r} as the base class has it"
    try:
        described = config_class.model_json_schema()
    except Exception as error:
        yield f"it has no JSON schema: {' '.join(str(error).split())}"
        return
    base = [name for each in ComponentConfig.__subclasses__() for name in each.model_fields]
    for name in sorted(set(config_class.model_fields) - set(base)):
        if described["properties"].get(name) == {} or name in SLOT_KEYS:
            yield f"field {name} takes anything: give it a type"
    if subject.spec.kind == "recipe":
        yield from read_again(config_class())
        return
    config = subject.config
    yield from read_again(config)
    yield from takes_nonsense(config)


def read_again(config: Any) -> Iterator[str]:
    """Written as YAML has it and read again, it is the same."""
    written = json.loads(json.dumps(config.model_dump(mode="json")))
    try:
        again = type(config).model_validate(written)
    except ValidationError as error:
        yield f"what it writes ({written}) it does not read again: {' '.join(str(error).split())}"
        return
    if again != config:
        changed = [name for name in type(config).model_fields if getattr(again, name) != getattr(config, name)]
        yield f"written and read again, {', '.join(changed)} differ"


def takes_nonsense(config: Any) -> Iterator[str]:
    try:
        type(config).model_validate({**config.model_dump(mode="json"), "no_such_key": 1})
    except ValidationError:
        return
    yield "it takes a key that it does not know, `no_such_key: 1`, without an error"
