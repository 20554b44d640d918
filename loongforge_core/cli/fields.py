"""The fields of a config as somebody who writes YAML sees them: what can be set and to what, and what a family fixes."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from loongforge_core.schema.fields import description_of, one_line

__all__ = ["Field", "fixed_fields", "settable_fields", "type_name"]

Field = dict[str, Any]
"""`name, type, required, default, description`, and `forms`: what a mapping may look like, each with `when, description, fields`."""


def settable_fields(model: type[BaseModel]) -> list[Field]:
    return [
        {
            "name": name,
            "type": type_name(field.annotation),
            "required": field.is_required(),
            "default": None if field.is_required() else plain(field.get_default(call_default_factory=True)),
            "description": description_of(model, name),
            "forms": [form_of(each) for each in mappings_in(field.annotation)],
        }
        for name, field in model.model_fields.items()
        if not is_fixed(field.annotation)
    ]


def fixed_fields(model: type[BaseModel]) -> dict[str, Any]:
    """The fields that take one value only."""
    return {name: only_value(field.annotation) for name, field in model.model_fields.items() if is_fixed(field.annotation)}


def form_of(model: type[BaseModel]) -> dict[str, Any]:
    """A mapping that a field takes. `when`: the keys and values that say that it is this one."""
    summary = (model.__doc__ or "").strip().partition("\n\n")[0]
    return {"when": fixed_fields(model), "description": one_line(summary), "fields": settable_fields(model)}


def is_fixed(annotation: Any) -> bool:
    return len(choices(annotation) or ()) == 1


def only_value(annotation: Any) -> Any:
    (value,) = choices(annotation) or ()
    return value


def choices(annotation: Any) -> Sequence[Any] | None:
    """All values of a type, where they can be counted."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is type(None):
        return (None,)
    if origin is Annotated:
        return choices(inner[0])
    if origin is Literal:
        return inner
    return None


def mappings_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in get_args(annotation) for model in mappings_in(each)]


def type_name(annotation: Any) -> str:
    """`int | null` and the like: how a field's type reads to somebody who writes YAML."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if (values := choices(annotation)) is not None:
        return " | ".join(json.dumps(value) if not isinstance(value, str) else value for value in values)
    if origin is Annotated:
        return type_name(inner[0])
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(type_name, inner)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(type_name, inner))}]" if inner else name


def plain(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)


def written(values: Mapping[str, Any]) -> str:
    """`a: 1, b: null` as YAML has it."""
    return ", ".join(f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items())
