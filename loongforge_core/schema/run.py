"""What the JSON schema says of the sections beside `model:`, as the installed components understand them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from pydantic import BaseModel

from loongforge_core.component import ComponentSpec
from loongforge_core.config.settings import DataSettings, EncoderLayout, ParallelSettings, RunSettings
from loongforge_core.config.slot_names import slot_kind, slot_modality
from loongforge_core.errors import PluginError
from loongforge_core.registry.registry import Registry
from loongforge_core.schema.fields import Schema, any_of, choice, described, description_of, field_schemas, mapping, one_line

__all__ = ["run_schemas"]

logger = logging.getLogger(__name__)


def run_schemas(registry: Registry, parts: Iterable[ComponentSpec], slots: Iterable[str]) -> dict[str, Schema]:
    """Every key at the top of a composition but `defaults` and `model`."""
    encoders = [spec for spec in parts if spec.kind == "encoder"]
    encoder_slots = [slot for slot in slots if slot_kind(slot) == "encoder"]
    sections = field_schemas(RunSettings)
    sections["parallel"] |= {"properties": parallel(encoder_slots), "patternProperties": {"^.+_encoder$": section_schema(EncoderLayout)}}
    sections["data"]["properties"] = data(registry, encoders, list(map(slot_modality, encoder_slots)))
    return sections


def parallel(encoder_slots: Iterable[str]) -> dict[str, Schema]:
    fields = field_schemas(ParallelSettings)
    del fields["encoders"]  # filled from the sections
    return {**fields, **{slot: section_schema(EncoderLayout) for slot in encoder_slots}}


def data(registry: Registry, encoders: Iterable[ComponentSpec], modalities: Collection[str]) -> dict[str, Schema]:
    fields = field_schemas(DataSettings)
    names = sorted({published.spec.name for published in registry.datasets()})
    fields["prepare"] = {**described(description_of(DataSettings, "prepare")), "anyOf": [choice(names), {"type": "null"}]}
    fields["augment"] |= {
        "properties": {modality: any_of(found) for modality in modalities if (found := distortions(modality, encoders, registry))},
        "additionalProperties": any(not spec.modalities for spec in encoders),
    }
    return fields


def distortions(modality: str, encoders: Iterable[ComponentSpec], registry: Registry) -> list[Schema]:
    """The settings of the processors of all encoders of a modality; none where nothing is distorted."""
    found: list[Schema] = []
    for spec in encoders:
        if not spec.processor or (spec.modalities and modality not in spec.modalities):
            continue
        try:
            settings = registry.load(spec, "processor").augment_config
        except PluginError as error:
            logger.warning("left out: %s", error)
            continue
        if settings is not None and (schema := section_schema(settings)) not in found:
            found.append(schema)
    return found


def section_schema(model: type[BaseModel]) -> Schema:
    """A section with the fields of a model."""
    fields = {"type": "object", "properties": field_schemas(model), "additionalProperties": False}
    return mapping(fields, one_line((model.__doc__ or "").partition("\n\n")[0]))
