"""A config's fields as JSON schema, draft 7, which is what VS Code's YAML extension reads.

Pydantic says what a value must be once all files are merged and every `${...}` is resolved. An editor sees one file before that: a
reference may stand in the place of any value, and what is required may come from another file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from loongforge_core.component import ComponentConfig

__all__ = [
    "Schema",
    "any_of",
    "choice",
    "described",
    "description_of",
    "field_schemas",
    "mapping",
    "old_keys",
    "one_line",
    "or_reference",
    "required_fields",
]

Schema = dict[str, Any]

REFERENCE: Schema = {
    "pattern": r"^(\$\{[\s\S]*\}|\?\?\?)$",
    "patternErrorMessage": "expected another type, or a reference such as ${train.lr}",
}
"""Text that OmegaConf puts another value in the place of; `???` is what another file, or the command line, must give."""
SCALARS = ("integer", "number", "boolean", "null", "object", "array")
DROPPED = frozenset({"title", "discriminator", "required", "default", "$defs"})


def field_schemas(model: type[BaseModel]) -> dict[str, Schema]:
    """What each field takes; nothing inside a mapping is required, since another file may give it."""
    whole = model.model_json_schema()
    definitions = whole.get("$defs", {})
    return {
        name: or_reference(draft_7({**schema, **described(description_of(model, name))}, definitions))
        for name, schema in whole.get("properties", {}).items()
    }


def required_fields(model: type[BaseModel]) -> list[str]:
    return sorted(name for name, field in model.model_fields.items() if field.is_required())


def description_of(model: type[BaseModel], name: str) -> str:
    """A field that a family declares again, with another default say, means what it meant before."""
    fields = (base.model_fields.get(name) for base in model.__mro__ if issubclass(base, BaseModel))
    return next((one_line(field.description) for field in fields if field and field.description), "")


def old_keys(config: type[ComponentConfig]) -> dict[str, Schema]:
    """The original design's keys, with the values that they may have; a pair is a list in YAML."""
    about = "A key of the original design."
    return {
        key: or_reference({"enum": json.loads(json.dumps(list(meanings))), "description": about})
        for key, meanings in config.original_forms.items()
    }


def choice(names: Sequence[str], description: str = "") -> Schema:
    """One of these, which an editor then proposes, or a reference."""
    return or_reference({"type": "string", "enum": list(names), **described(description)})


def any_of(schemas: Sequence[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def mapping(schema: Schema, description: str) -> Schema:
    """An object, or a reference to one."""
    return {**or_reference(schema), **described(description)}


def or_reference(schema: Schema) -> Schema:
    """The same, or text that refers to another value."""
    kind, branches = schema.get("type"), schema.get("anyOf")
    if branches is not None:
        return schema if any(takes_any_text(branch) for branch in branches) else {**schema, "anyOf": [*branches, reference()]}
    if "enum" in schema or "const" in schema or (kind == "string" and not takes_any_text(schema)):
        outside = {key: value for key, value in schema.items() if key == "description"}
        return {**outside, "anyOf": [{key: value for key, value in schema.items() if key not in outside}, reference()]}
    return {**schema, "type": [kind, "string"], **REFERENCE} if kind in SCALARS else schema


def reference() -> Schema:
    return {"type": "string", **REFERENCE}


def takes_any_text(schema: Schema) -> bool:
    return schema.get("type") == "string" and not schema.keys() & {"enum", "const", "pattern", "minLength", "maxLength"}


def draft_7(schema: Schema, definitions: Mapping[str, Schema], inside: tuple[str, ...] = ()) -> Schema:
    """Pydantic's schema, which is draft 2020-12, with the definitions that it names in their places."""

    def below(nested: Any) -> Any:
        return draft_7(nested, definitions, inside) if isinstance(nested, dict) else nested

    def value(nested: Any) -> Any:
        return or_reference(below(nested)) if isinstance(nested, dict) else nested

    if (name := schema.get("$ref", "").rpartition("/")[2]) in inside:
        return {}  # a mapping that may hold itself
    if name:
        beside = {key: each for key, each in schema.items() if key != "$ref"}
        return draft_7({**definitions[name], **beside}, definitions, (*inside, name))
    made = {key: each for key, each in schema.items() if key not in DROPPED}
    for key in ("anyOf", "oneOf", "allOf"):
        if key in made:  # of `oneOf`, several may fit before what tells them apart has come from another file
            made["anyOf" if key == "oneOf" else key] = [below(branch) for branch in made.pop(key)]
    if "properties" in made:
        made["properties"] = {field: value(nested) for field, nested in made["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in made:
            made[key] = value(made[key])
    if "prefixItems" in made:
        made["items"], made["additionalItems"] = [value(each) for each in made.pop("prefixItems")], made.get("items", False)
    return {**made, **described(described_with_default(schema))}


def described_with_default(schema: Schema) -> str:
    """The default in words: as a `default`, editors would write all of a section's into the file as soon as the section is begun."""
    about, default = one_line(schema.get("description", "").partition("\n\n")[0]), schema.get("default")
    if default in (None, [], {}) or isinstance(default, dict) or "const" in schema:
        return about
    return f"{about} Default: {json.dumps(default)}.".strip()


def described(description: str) -> Schema:
    """What an editor shows beside the key; nothing where there is nothing to say."""
    return {"description": description} if description else {}


def one_line(text: str) -> str:
    return " ".join(text.split())
