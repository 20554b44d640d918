"""LLaVA's projector on disk: a part of `LlavaForConditionalGeneration`, with its keys at the top of that config.json."""

from __future__ import annotations

from loongforge_core.weights.config_keys import Key
from loongforge_core.weights.rules import WEIGHT, WEIGHT_AND_BIAS, Copy
from loongforge_core.weights.table import Table
from loongforge_projectors.mlp.config import MlpConfig

__all__ = ["table"]

ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def table(config: MlpConfig) -> Table:
    parts = WEIGHT_AND_BIAS if config.add_bias_linear else WEIGHT
    return Table(
        rules=(Copy("linear_1", "linear_1", parts=parts), Copy("linear_2", "linear_2", parts=parts)),
        keys=(
            Key("projector_hidden_act", "activation", "gelu", values=ACTIVATIONS),
            Key("multimodal_projector_bias", "add_bias_linear", True),
        ),
    )
