"""A JSON schema of everything that the installed plugins let a YAML file say, so that an editor completes and checks it.

It accepts whatever `validate` accepts, but for what another file overwrites. What takes more than one file, or more than one place in a
file, stays with `validate`: widths that must fit, say. A file with `type` at its top is a component's size, any other one a composition.
`defaults` may give what a file has not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping

from pydantic.errors import PydanticUserError

from loongforge_core.component import ComponentConfig, ComponentSpec
from loongforge_core.config.settings import SlotSettings
from loongforge_core.config.slot_names import FOUNDATION, encoder_slot, projector_slot, slot_kind, slot_modality
from loongforge_core.errors import PluginError
from loongforge_core.registry.registry import Registry
from loongforge_core.schema.defaults import defaults_schema
from loongforge_core.schema.fields import (
    Schema,
    any_of,
    choice,
    described,
    description_of,
    field_schemas,
    mapping,
    old_keys,
    or_reference,
    required_fields,
)
from loongforge_core.schema.run import run_schemas

__all__ = ["composition_schema"]

logger = logging.getLogger(__name__)

INFERRED = ("input_size", "hidden_size", "num_levels")
"""Of a projector, from its neighbours."""


def composition_schema(registry: Registry) -> Schema:
    """The schema, draft 7. What of a plugin cannot be loaded is left out, and said."""
    return PluginsSchema(registry).whole()


class PluginsSchema:
    """The definitions of one schema, as they are made."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        configs = dict(loaded(registry))
        self.recipes = {spec: config for spec, config in configs.items() if spec.kind == "recipe"}
        self.parts = {spec: config for spec, config in configs.items() if spec.kind != "recipe"}
        modalities = sorted({modality for spec in self.parts for modality in spec.modalities})
        self.slots = [*map(encoder_slot, modalities), *map(projector_slot, modalities), FOUNDATION]
        self.definitions = {name_of(spec): part_schema(spec, config) for spec, config in self.parts.items()}

    def whole(self) -> Schema:
        self.definitions["defaults"] = defaults_schema(self.registry, self.slots)
        run = run_schemas(self.registry, self.parts, self.slots)
        self.definitions |= {f"run.{name}": schema for name, schema in run.items()}
        names = sorted({spec.name for spec in self.parts})
        of_a_size = "Makes this file a component's size, which compositions name in their `defaults`."
        return {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": "LoongForge composition",
            "$comment": f"written by `loongforge schema`, of {', '.join(self.registry.fingerprint().splitlines())}",
            "type": "object",
            "properties": {"type": choice(names, of_a_size)},
            "if": {"required": ["type"]},
            "then": {"allOf": [where("type", name, self._size(name)) for name in names]},
            "else": {
                "if": {"required": ["defaults"]},
                "then": self._composition(run, is_whole=False),
                "else": {**self._composition(run, is_whole=True), "required": ["model"]},
            },
            "definitions": self.definitions,
        }

    def _size(self, name: str) -> Schema:
        """A file with the keys of any component of this name, of whatever kind."""
        parts = [spec for spec in self.parts if spec.name == name]
        return only({"defaults": {"$ref": "#/definitions/defaults"}, **self._keys_of_any(parts)})

    def _composition(self, run: Iterable[str], *, is_whole: bool) -> Schema:
        """`is_whole`: nothing comes from other files."""
        keys = {name: {"$ref": f"#/definitions/run.{name}"} for name in run}
        return only({"defaults": {"$ref": "#/definitions/defaults"}, "model": self._model(is_whole), **keys})

    # ---- model

    def _model(self, is_whole: bool) -> Schema:
        """What a recipe's own keys are depends on `model_type`, and so does which keys are slots: some old names end as these do."""
        unnamed = {spec: config for spec, config in self.recipes.items() if not is_whole or spec.name == "default"}
        description = "Recipe of the whole; without one, a free combination of parts that fit together."
        schema: Schema = {
            "type": "object",
            "properties": {"model_type": choice(sorted(spec.name for spec in self.recipes), description)},
            "allOf": [
                *(where("model_type", spec.name, self._of_recipe({spec: each}, is_whole)) for spec, each in self.recipes.items()),
                {"if": {"not": {"required": ["model_type"]}}, "then": self._of_recipe(unnamed, is_whole)},
            ],
        }
        return mapping(schema, "Slots, each filled by a component, and the recipe's own keys.")

    def _of_recipe(self, recipes: Mapping[ComponentSpec, type[ComponentConfig]], is_whole: bool) -> Schema:
        own: dict[str, Schema] = {}
        for config in recipes.values():
            for key, schema in {**field_schemas(config), **old_keys(config)}.items():
                own[key] = any_of([own[key], schema]) if key in own else schema
        known = "|".join(map(re.escape, sorted({*own, *self.slots})))
        others = {f"other_{kind}": f"^(?!({known})$).+_{kind}$" for kind in ("encoder", "projector")}
        return {
            **only({"model_type": {}, **{slot: self._slot(slot, is_whole) for slot in self.slots if slot not in own}, **own}),
            "patternProperties": {pattern: self._slot(slot, is_whole) for slot, pattern in others.items() if self._fitting(slot)},
        }

    def _fitting(self, slot: str) -> list[ComponentSpec]:
        """The components that a slot takes: those of its kind for its modality, or for any."""
        of_kind = [spec for spec in self.parts if spec.kind == slot_kind(slot)]
        return [spec for spec in of_kind if not spec.modalities or slot_modality(slot) in spec.modalities]

    def _slot(self, slot: str, is_whole: bool) -> Schema:
        """What a slot takes: the keys of the component that its `type` names; those of any where another file names it."""
        name = f"{slot}.whole" if is_whole else slot
        if name not in self.definitions:
            fitting = self._fitting(slot)
            kinds = {"type": choice(sorted(spec.name for spec in fitting), description_of(SlotSettings, "type"))}
            branches = [where("type", spec.name, self._filled(spec, is_whole)) for spec in fitting]
            if not is_whole:
                branches.append({"if": {"not": {"required": ["type"]}}, "then": only(self._keys_of_any(fitting))})
            schema: Schema = {"type": "object", "properties": kinds, "allOf": branches, **({"required": ["type"]} if is_whole else {})}
            self.definitions[name] = mapping(schema, f"The {slot_kind(slot)} of this model.")
        return {"$ref": f"#/definitions/{name}"}

    def _filled(self, spec: ComponentSpec, is_whole: bool) -> Schema:
        part: Schema = {"$ref": f"#/definitions/{name_of(spec)}"}
        return {"allOf": [part], "required": required(spec, self.parts[spec])} if is_whole else part

    def _keys_of_any(self, parts: Iterable[ComponentSpec]) -> dict[str, Schema]:
        """Each key that one of these components has, with all that one of them lets it be."""
        found: dict[str, list[tuple[Schema, Schema]]] = {}
        for name in map(name_of, parts):
            for key, schema in self.definitions[name]["properties"].items():
                meaning = {about: what for about, what in schema.items() if about != "description"}
                if all(meaning != other for other, _ in found.setdefault(key, [])):
                    found[key].append((meaning, {"$ref": f"#/definitions/{name}/properties/{key}"}))
        return {key: any_of([reference for _, reference in schemas]) for key, schemas in found.items()}


def loaded(registry: Registry) -> Iterator[tuple[ComponentSpec, type[ComponentConfig]]]:
    """Every component that can be selected, with its config."""
    for published in registry.components():
        try:
            spec = registry.component(published.spec.kind, published.spec.name)
            config = registry.load(spec, "config")
            config.model_json_schema()
            yield spec, config
        except (PluginError, PydanticUserError) as error:
            logger.warning("left out: %s %s: %s", published.spec.kind, published.spec.name, error)


def part_schema(spec: ComponentSpec, config: type[ComponentConfig]) -> Schema:
    """The keys of a slot that this component fills."""
    slot = field_schemas(SlotSettings)
    encoded = {"type": "string", "enum": list(spec.modalities)} if spec.modalities else {"type": "string"}
    slot["also_encodes"] |= {"items": or_reference(encoded)} if spec.kind == "encoder" else {"maxItems": 0}
    slot["backend"] = or_reference({**described(description_of(SlotSettings, "backend")), "enum": [*config.backends, None]})
    kind = {"const": spec.name, **described(spec.summary)}
    return {**described(spec.summary), **only({**slot, "type": kind, **field_schemas(config), **old_keys(config)})}


def required(spec: ComponentSpec, config: type[ComponentConfig]) -> list[str]:
    """Less what follows from neighbours, and what old keys may mean."""
    meant = {field for meanings in config.original_forms.values() for fields in meanings.values() for field in fields}
    inferred = INFERRED if spec.kind == "projector" else ()
    return [name for name in required_fields(config) if name not in meant and name not in inferred]


def only(properties: dict[str, Schema]) -> Schema:
    return {"properties": properties, "additionalProperties": False}


def where(key: str, value: str, schema: Schema) -> Schema:
    return {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": schema}


def name_of(spec: ComponentSpec) -> str:
    return f"{spec.kind}.{spec.name}"
