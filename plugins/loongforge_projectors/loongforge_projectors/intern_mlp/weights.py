"""InternVL's projector on disk, a part of two formats: transformers' `InternVLForConditionalGeneration`, OpenGVLab's `InternVLChatModel`.

Both have its keys at the top of their config.json.
"""

from __future__ import annotations

from collections.abc import Mapping

from loongforge_core.weights.config_keys import Constant
from loongforge_core.weights.rules import WEIGHT, WEIGHT_AND_BIAS, Copy, Rule
from loongforge_core.weights.table import Table
from loongforge_projectors.intern_mlp.config import BLOCK, InternMlpConfig

__all__ = ["table"]

TRANSFORMERS = {"layer_norm": "layer_norm", "linear_1": "linear_1", "linear_2": "linear_2"}
ROWS_FIRST = Constant("ps_version", "v2", "v1")
"""Their first version left blocks column by column."""
OPENGVLAB = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}


def table(config: InternMlpConfig) -> Table:
    """Names without what lies before them: `multi_modal_projector.`, or OpenGVLab's `mlp1.`."""
    ratio = Constant("downsample_ratio", 1 / BLOCK, 1 / BLOCK)
    return Table(
        rules=rules(config, TRANSFORMERS),
        keys=(ratio, Constant("projector_hidden_act", "gelu", "gelu")),
        alternatives={"OpenGVLab": Table(rules=rules(config, OPENGVLAB), keys=(ratio, ROWS_FIRST))},
    )


def rules(config: InternMlpConfig, theirs: Mapping[str, str]) -> tuple[Rule, ...]:
    norm_parts = WEIGHT_AND_BIAS if config.normalization == "LayerNorm" else WEIGHT
    return tuple(Copy(name, ours, parts=norm_parts if ours == "layer_norm" else WEIGHT_AND_BIAS) for ours, name in theirs.items())
