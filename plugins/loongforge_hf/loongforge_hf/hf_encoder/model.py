"""A model of transformers as an encoder: its last hidden state, item by item.

Items of one size are one batch, so that no item is padded and none sees another: what a model that normalises over time, as wav2vec 2.0
does, makes of a sound does not depend on the sounds beside it.

Left out: tensor parallelism; every rank holds the whole model. Dropout, layer drop, stochastic depth and masking, which transformers does
while training: outputs would depend on the layout (I1).

Shapes: b items of one size, n tokens of an item, W feature width, N tokens of all items.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.initialization import no_init_weights

from loongforge_core.component import Initial, InitialValues, Shape
from loongforge_core.layers.interfaces import BuildContext, Encoder, Features, Items
from loongforge_hf.hf_encoder.config import HfEncoderConfig

__all__ = ["HfEncoder", "transformers_config", "transformers_model"]

WITHOUT_POOLER = ("ViTModel", "DeiTModel", "BeitModel", "IJepaModel", "SwinModel")
"""Classes that are asked not to build what is behind the last hidden state."""
STATED = ("num_stages",)
"""Of the keys that follow from others, those that a config class does not work out."""


class HfEncoder(Encoder[HfEncoderConfig]):
    """Pictures of one size, or sounds of any, -> the last hidden state, row by row."""

    def __init__(self, config: HfEncoderConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.model = transformers_model(config)
        for name, parameter in self.named_parameters():
            if any(fnmatchcase(name, pattern) for pattern in config.architecture.tensors_carried):
                parameter.requires_grad_(False)
        if context.recompute == "full":
            recompute_one_by_one(self.model, config.architecture.layers)

    def initial_values(self) -> InitialValues:
        """As transformers draws them, but for embeddings and linear layers, which have one width here."""
        return InitialValues.transformer(self.config.init_method_std, first=special_values(self.config))

    def forward(self, items: Items) -> Features:
        """What the processor makes, under transformers' name for it: `pixel_values` [b, 3, rows, columns]; `input_values`, samples or
        frames, one sound's behind another's; `input_features` likewise."""
        (given,) = items.inputs.values()
        inputs = given.to(next(self.model.parameters()).dtype).split([self.config.num_rows(size) for size in items.sizes])
        numbers: dict[Shape, list[int]] = {}
        for number, size in enumerate(items.sizes):
            numbers.setdefault(size, []).append(number)
        emitted: dict[int, Tensor] = {}
        for of_one_size in numbers.values():
            batch = torch.stack([inputs[number] for number in of_one_size])
            emitted.update(zip(of_one_size, self.features(batch), strict=True))
        features_NW = torch.cat([emitted[number] for number in range(len(items))])
        return Features(features_NW, tuple(self.config.token_grid(size) for size in items.sizes))

    def features(self, batch: Tensor) -> Tensor:
        """`[b, n, W]` of items of one size."""
        if self.config.architecture.modality == "image":
            batch = batch.flatten(0, 1)
        hidden: Tensor = self.model(**{self.config.architecture.input_name: batch}).last_hidden_state
        if hidden.dim() == 4:  # [b, W, rows, columns], of a network of convolutions
            return hidden.flatten(2).transpose(1, 2)
        return hidden if self.config.prefix_tokens == "kept" else hidden[:, self.config.num_prefix_tokens :]


def transformers_config(config: HfEncoderConfig) -> Any:
    """With every key that a feature depends on; the class works the rest out by itself."""
    architecture = config.architecture
    stated = {key: value(config.values) for key, value in architecture.derived.items() if key in STATED}
    return getattr(transformers, architecture.config_class)(**config.values, **architecture.neutral, **architecture.required, **stated)


def transformers_model(config: HfEncoderConfig) -> nn.Module:
    """The module, without values: whoever asked fills it."""
    model_class = getattr(transformers, config.architecture.model_class)
    options = {"add_pooling_layer": False} if model_class.__name__ in WITHOUT_POOLER else {}
    with no_init_weights():
        model: nn.Module = model_class(transformers_config(config), **options)
    return model


# ------------------------------------------------------------------------------------------------------------ recomputation


def recompute_one_by_one(model: nn.Module, layers: str) -> None:
    """Of these modules only the inputs are kept; the backward pass runs each once more. By transformers' own way not all can be."""
    for name, module in model.named_modules():
        if re.fullmatch(layers, name):
            module.forward = partial(recomputed, module.forward)  # type: ignore[method-assign]


def recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


# ------------------------------------------------------------------------------------------------------------ initial values


def special_values(config: HfEncoderConfig) -> dict[str, Initial]:
    """Of tensors that are neither norms nor biases nor matrices."""
    values = config.values
    special = {
        "*.lambda_[12]": Initial("constant", values.get("layer_scale_init_value", 0.0)),
        "*.lambda1": Initial("constant", values.get("layerscale_value", 1.0)),
        "*.grn.*": Initial("constant"),
        "*.downsampling_layer.0.weight": Initial("constant", 1.0),  # a norm
        "*.gru_rel_pos_const": Initial("constant", 1.0),
        "*.relative_position_bias_table": Initial("constant"),
    }
    if "conv_kernel" in values:
        # Half of a convolution's variance is lost to its activation, and most of these have no norm behind them.
        widths = [1, *values["conv_dim"]]
        for layer, kernel in enumerate(values["conv_kernel"]):
            name = f"model.feature_extractor.conv_layers.{layer}.conv.weight"
            special[name] = Initial("normal", math.sqrt(2 / (widths[layer] * kernel)))
    if "num_conv_pos_embeddings" in values and config.name != "data2vec_audio":
        # The length of each kernel's place, whose direction is drawn beside it.
        length = 2 * math.sqrt(values["hidden_size"] / (values["num_conv_pos_embedding_groups"] * values["num_conv_pos_embeddings"]))
        special["*.parametrizations.weight.original0"] = Initial("constant", length)
    return special
