"""Validates plain data with pydantic and says in plain sentences what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from loongforge_core.config.provenance import Provenance
from loongforge_core.errors import Issue, did_you_mean

__all__ = ["Findings", "validated"]

ModelT = TypeVar("ModelT", bound=BaseModel)

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "none_required": "null",
}


class Findings:
    """Everything that is wrong, collected key by key, each with the place that wrote it."""

    def __init__(self, provenance: Provenance) -> None:
        self.provenance = provenance
        self.issues: list[Issue] = []
        self.cause: BaseException | None = None
        """Of the first issue that has one: a broken plugin's own error."""

    def add(self, key: str, message: str, *, cause: BaseException | None = None) -> None:
        self.issues.append(Issue(message, key, self.provenance.where(key)))
        self.cause = self.cause or cause


def validated(
    model: type[ModelT], data: Mapping[str, Any], prefix: str, findings: Findings, *, also_valid: Iterable[str] = ()
) -> ModelT | None:
    """The model, or None after noting every error under `prefix`.

    `also_valid` are names to suggest beside the model's own, such as keys that the caller has taken out.
    """
    try:
        # As JSON: lists for tuples and text for paths are what YAML can say, and strictness stays.
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for location, message in messages(error, model, data, also_valid).items():
            findings.add(".".join([*([prefix] if prefix else []), *location]), message)
        return None


def messages(error: ValidationError, model: type[BaseModel], data: Any, also_valid: Iterable[str]) -> dict[tuple[str, ...], str]:
    """One sentence per place; where several forms were possible, all that were expected."""
    grouped: dict[tuple[str, ...], list[Any]] = {}
    for detail in error.errors(include_url=False):
        grouped.setdefault(place(detail, data), []).append(detail)
    return {
        location: sentence(details, model, also_valid)
        for location, details in grouped.items()
        if not any(other[: len(location)] == location and other != location for other in grouped)  # the form that got furthest
    }


def place(detail: Any, data: Any) -> tuple[str, ...]:
    """Where in the data the error is, by keys that are written or missing there."""
    location, kind = location_of(detail), detail["type"]
    if kind in ("missing", "extra_forbidden"):
        return (*place_inside(location[:-1], data), location[-1])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return (*place_inside(location, data), detail["ctx"]["discriminator"].strip("'"))
    return place_inside(location, data)


def location_of(detail: Any) -> tuple[str, ...]:
    return tuple(str(part) for part in detail["loc"])


def place_inside(location: tuple[str, ...], data: Any) -> tuple[str, ...]:
    """The parts of a location that lead into the data; pydantic adds the branches of unions."""
    inside: list[str] = []
    for part in location:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, Sequence) and not isinstance(data, str) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        else:
            continue
        inside.append(part)
    return tuple(inside)


def sentence(details: list[Any], model: type[BaseModel], also_valid: Iterable[str]) -> str:
    first = details[0]
    kind, given, context = first["type"], first["input"], first.get("ctx", {})
    forms = forms_at(model, location_of(first))
    if kind == "extra_forbidden":
        return f"unknown key{suggestion(location_of(first), model, also_valid)}"
    if kind == "missing":
        return f"not given, and it has no default{description_at(model, location_of(first))}"
    if kind == "union_tag_not_found":
        return f"not given, and it has no default; expected {forms}"
    if kind == "union_tag_invalid":
        return f"got {context['tag']!r}, expected {context['expected_tags']}{nearest(context['tag'], context['expected_tags'])}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        expected = as_yaml(context["expected"])
        return f"got {shown(given)}, expected {expected}{nearest(given, expected)}"
    wanted = list(dict.fromkeys(expected_by(detail) for detail in details))
    if "a list" in wanted and isinstance(given, str) and takes_texts(model, location_of(first)):
        wanted[wanted.index("a list")] = f"a list, such as [{given!r}]"
    told_apart = f", with type {forms}" if forms and not isinstance(given, Mapping) else ""
    return f"got {shown(given)}{type_of(given)}, expected {' or '.join(wanted)}{told_apart}"


def suggestion(location: tuple[str, ...], model: type[BaseModel], also_valid: Iterable[str]) -> str:
    """The section that has exactly this key, or the nearest key beside this one."""
    here = model_at(model, location[:-1])
    valid = {*(here.model_fields if here else ()), *(also_valid if len(location) == 1 else ())}
    if homes := sorted(name for name in {*valid, *also_valid} if name.endswith(f".{location[-1]}")):
        return f"; did you mean {' or '.join(map(repr, homes))}?"
    return did_you_mean(location[-1], {name for name in valid if "." not in name})


def expected_by(detail: Any) -> str:
    if detail["type"] in EXPECTED:
        return EXPECTED[detail["type"]]
    if detail["type"] == "literal_error":
        return as_yaml(detail["ctx"]["expected"])
    message = str(detail["msg"])
    return message.removeprefix("Input should be ").removeprefix("a valid ")


def type_of(given: Any) -> str:
    names = {str: "text", list: "a list", dict: "a mapping", type(None): "nothing"}
    return f" ({names[type(given)]})" if type(given) in names else ""


def as_yaml(choices: str) -> str:
    """Pydantic names what is expected as Python writes it."""
    return re.sub(r"\b(True|False|None)\b", lambda found: {"True": "true", "False": "false", "None": "null"}[found[0]], choices)


def forms_at(model: type[BaseModel], location: tuple[str, ...]) -> str:
    """The values of `type` that tell the forms of a mapping apart; empty where there is nothing to tell."""
    forms = models_in(annotation_at(model, location))
    kinds = [form.model_fields["type"].default for form in forms if "type" in form.model_fields]
    return ", ".join(map(repr, kinds)) if len(kinds) > 1 else ""


def takes_texts(model: type[BaseModel], location: tuple[str, ...]) -> bool:
    """Whether a list of texts could stand there; pydantic adds the branch of a union behind the field's name."""
    annotation = next((each for end in range(len(location), 0, -1) if (each := annotation_at(model, location[:end]))), None)
    return list[str] in (annotation, *get_args(annotation))


def annotation_at(model: type[BaseModel], location: tuple[str, ...]) -> Any:
    """Of the field at `location`; None where there is none."""
    owner = model_at(model, location[:-1]) if location else None
    return owner.model_fields[location[-1]].annotation if owner and location[-1] in owner.model_fields else None


def shown(given: Any) -> str:
    text = json.dumps(given) if given is None or isinstance(given, bool) else repr(given)
    return text if len(text) <= 80 else f"{text[:60]} ... {text[-10:]}"


def nearest(given: Any, expected: str) -> str:
    near = did_you_mean(str(given), [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")])
    return near if "did you mean" in near else ""


def description_at(model: type[BaseModel], location: tuple[str, ...]) -> str:
    here = model_at(model, location[:-1])
    description = here.model_fields[location[-1]].description if here and location[-1] in here.model_fields else None
    return f": {' '.join(description.split())}" if description else ""


def model_at(model: type[BaseModel], location: tuple[str, ...]) -> type[BaseModel] | None:
    """The model that the fields at `location` belong to; a part of it may be the value that tells the forms of a union apart, or a place in
    a list."""
    forms = [model]
    for part in location:
        owners = [form for form in forms if part in form.model_fields]
        chosen = [form for form in forms if any(field.default == part for field in form.model_fields.values())]
        forms = models_in(owners[0].model_fields[part].annotation) if owners else chosen or forms
    return forms[0] if forms else None


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in get_args(annotation) for model in models_in(each)]
