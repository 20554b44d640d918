"""The original design's YAML forms -> ours: named callables become fields, and nothing they name is imported.

    loss_func: ${loss_func:loss_func_internvl}                        a key whose value means what the recipe does anyway
    rotary_emb_func: "DynamicRotaryEmbedding"                         a key whose value means fields of ours
    model_spec: ["package.module", "get_some_layer_with_te_spec"]     a pair that is looked up, never imported

Which keys and values there are, a component's config says (`ComponentConfig.original_forms`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from loongforge_core.component import ComponentConfig
from loongforge_core.config.sentences import Findings
from loongforge_core.errors import near_match

__all__ = ["NAMED_CALLABLES", "translated"]


def translated(written: Mapping[str, Any], config_class: type[ComponentConfig], key: str, findings: Findings) -> dict[str, Any]:
    """What is written under `key`, with the fields that original forms mean in their place; what they cannot mean is noted."""
    forms = config_class.original_forms
    fields = {name: value for name, value in written.items() if name not in forms}
    for name in written.keys() & forms.keys():
        known = {spelled(value): meaning for value, meaning in forms[name].items()}
        given = spelled(written[name])
        if given not in known:
            near = near_match(given, known) if len(known) > 1 else ""
            findings.add(f"{key}.{name}", f"got {given}, expected {' or '.join(known)}{near}")
            continue
        for field, value in known[given].items():
            if not agrees(fields.get(field, value), value):
                findings.add(f"{key}.{name}", f"{given} means {field}: {value}, but {field}: {fields[field]} is written")
            fields[field] = fields.get(field, value)
    return fields


def spelled(value: Any) -> str:
    """A form's value as YAML has it, in one piece of text."""
    return json.dumps(value) if isinstance(value, list | tuple | bool) else str(value)


def agrees(written: Any, meant: Any) -> bool:
    """Whether all that is meant is written so; a mapping may say more."""
    if isinstance(written, Mapping) and isinstance(meant, Mapping):
        return all(name in written and agrees(written[name], value) for name, value in meant.items())
    return bool(written == meant)


# ---- `${name:argument}`


def layer_pattern(text: str) -> list[int]:
    """`[0]*1+[1]*59` as a list: one dense layer, then 59 of experts."""
    if not re.fullmatch(r"\s*\[[01]\]\s*\*\s*\d+\s*(\+\s*\[[01]\]\s*\*\s*\d+\s*)*", text):
        raise ValueError(f"got {text!r}, expected a pattern of layers such as [0]*1+[1]*59")
    return [int(kind) for kind, times in re.findall(r"\[([01])\]\s*\*\s*(\d+)", text) for _ in range(min(int(times), 100_000))]


NAMED_CALLABLES: Mapping[str, Callable[[str], Any]] = {"loss_func": str, "act": str, "position_func": str, "moe_freq": layer_pattern}
"""What `${loss_func:NAME}` and its like come to: the name itself."""
