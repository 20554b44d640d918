"""Whether what a plugin announces is what the registry can show beside others."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import get_args

from loongforge_core.component import SUPPORTED_API_VERSIONS, ComponentSpec, DatasetSpec, Kind

__all__ = ["UnsupportedVersion", "check_component", "check_dataset"]

KINDS: tuple[str, ...] = get_args(Kind)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class UnsupportedVersion(ValueError):
    """The plugin was written for another version of the component page."""


def check_component(spec: object) -> ComponentSpec:
    """The specification itself, or a TypeError or ValueError that says what is wrong with it."""
    if not isinstance(spec, ComponentSpec):
        raise TypeError(f"loongforge_components() gave {spec!r}, expected ComponentSpec objects")
    optional = {"model": spec.model, "weights": spec.weights, "processor": spec.processor}
    check_announcement(spec, {"config": spec.config, **{part: target for part, target in optional.items() if target}})
    if spec.kind not in KINDS:
        raise ValueError(f"component {spec.name!r} is of kind {spec.kind!r}, expected one of {', '.join(KINDS)}")
    if spec.kind == "encoder" and not spec.modalities:
        raise ValueError(f"encoder {spec.name!r} names no modality")
    return spec


def check_dataset(spec: object) -> DatasetSpec:
    """The specification itself, or a TypeError or ValueError that says what is wrong with it."""
    if not isinstance(spec, DatasetSpec):
        raise TypeError(f"loongforge_datasets() gave {spec!r}, expected DatasetSpec objects")
    check_announcement(spec, {"prepare": spec.prepare})
    return spec


def check_announcement(spec: ComponentSpec | DatasetSpec, targets: dict[str, str]) -> None:
    name, api_version = spec.name, spec.api_version
    if isinstance(api_version, int) and api_version not in SUPPORTED_API_VERSIONS:
        low, high = SUPPORTED_API_VERSIONS[0], SUPPORTED_API_VERSIONS[-1]
        supported = str(low) if low == high else f"{low} to {high}"
        behind = "loongforge_core" if api_version > high else "the plugin"
        raise UnsupportedVersion(
            f"{name!r} is written for API version {api_version}, this loongforge_core supports {supported}: upgrade {behind}"
        )
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name: letters, digits, '.', '_' and '-'")
    for part, target in targets.items():
        if not isinstance(target, str) or not TARGET.fullmatch(target):
            raise ValueError(f"{part} of {name!r} is {target!r}, expected 'package.module:attribute'")
    check_types(spec)


def check_types(spec: ComponentSpec | DatasetSpec) -> None:
    """A dataclass takes anything, and what is announced is shown beside what others announce."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name == "modalities":
            expected, fits = "a tuple of names", isinstance(value, tuple) and all(isinstance(each, str) for each in value)
        elif field.name == "api_version":
            expected, fits = "a number", type(value) is int
        else:
            expected, fits = "text", isinstance(value, str)
        if not fits:
            raise TypeError(f"{field.name} of {spec.name!r} is {value!r}, expected {expected}")
