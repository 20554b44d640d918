"""Every model in the list at a tiny size: ours, transformers' of the same sizes, and items for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from loongforge_hf.hf_encoder.config import ARCHITECTURES, HfEncoderConfig
from loongforge_hf.hf_encoder.model import WITHOUT_POOLER
from torch import Tensor

from loongforge_core.layers.interfaces import Items

LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"image_size": 24, "patch_size": 6}
VIT = {**LAYERS, "intermediate_size": 24, **SQUARE}
WAVES = {**LAYERS, "intermediate_size": 24, "conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3]}
WAVES |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}

TINY: Mapping[str, dict[str, Any]] = {
    "vit": VIT,
    "deit": VIT,
    "beit": VIT,
    "dinov2": {**LAYERS, "mlp_ratio": 2, "image_size": 30, "patch_size": 6},
    "dinov2_with_registers": {**LAYERS, "mlp_ratio": 2, "num_register_tokens": 3, **SQUARE},
    "dinov3_vit": {**VIT, "num_register_tokens": 2},
    "ijepa": VIT,
    "siglip": VIT,
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 2], "patch_size": 3},
    "swin": {"embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 3, "patch_size": 2, "image_size": 24},
    "wav2vec2": WAVES,
    "hubert": WAVES,
    "wavlm": {**WAVES, "num_buckets": 8, "max_bucket_distance": 20},
    "data2vec_audio": {**WAVES, "conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2},
    "wav2vec2_bert": {**LAYERS, "intermediate_size": 24, "feature_projection_input_dim": 8, "conv_depthwise_kernel_size": 3}
    | {"left_max_position_embeddings": 4, "right_max_position_embeddings": 2},
    "ast": {**LAYERS, "intermediate_size": 24, "patch_size": 4, "frequency_stride": 3, "time_stride": 3}
    | {"max_length": 12, "num_mel_bins": 9},
}
assert TINY.keys() == ARCHITECTURES.keys()

CASES: Mapping[str, dict[str, Any]] = {
    **{name: {"name": name, "config": config} for name, config in TINY.items()},
    "dinov2, gated": {"name": "dinov2", "config": {**TINY["dinov2"], "use_swiglu_ffn": True}},
    "dinov3_vit, gated": {"name": "dinov3_vit", "config": {**TINY["dinov3_vit"], "use_gated_mlp": True, "key_bias": True}},
    "beit, absolute positions": {
        "name": "beit",
        "config": {**VIT, "use_relative_position_bias": False, "use_absolute_position_embeddings": True, "use_mean_pooling": False},
    },
    "wav2vec2, large": {
        "name": "wav2vec2",
        "config": {**WAVES, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    },
    "wavlm, large": {"name": "wavlm", "config": {**TINY["wavlm"], "feat_extract_norm": "layer", "do_stable_layer_norm": True}},
    "prefix": {"name": "dinov3_vit", "config": TINY["dinov3_vit"], "prefix_tokens": "kept"},
}
"""What else published models of these classes have."""
SIDES = {"dinov2": 24, "dinov2_with_registers": 24, "dinov3_vit": 24, "convnextv2": 20}
"""Of pictures, where it is not the config's: positions are interpolated, and what is odd is cut off."""


def ours_of(case: str, **changes: Any) -> HfEncoderConfig:
    given = CASES[case]
    side = {"image_size": SIDES[given["name"]]} if given["name"] in SIDES else {}
    return HfEncoderConfig(**{**given, **side, **changes})


def theirs_of(config: HfEncoderConfig, **changes: Any) -> transformers.PreTrainedModel:
    """Evaluated, with dropout as its class has it by default; of pretraining it has nothing."""
    architecture = config.architecture
    masks = {key: architecture.neutral[key] for key in ("mask_time_prob", "mask_feature_prob") if key in architecture.neutral}
    given = {**config.values, **masks, **changes}
    if "depths" in given and config.name == "convnextv2":
        given["num_stages"] = len(given["depths"])
    model_class = getattr(transformers, architecture.model_class)
    if architecture.model_class in WITHOUT_POOLER:
        model_class = without_pooler(model_class)
    return model_class(getattr(transformers, architecture.config_class)(**given)).eval()


def without_pooler(model_class: Any) -> Any:
    """The class as it is where asked not to build what is behind the last hidden state, also by `from_pretrained`."""

    def build(self: Any, config: Any) -> None:
        model_class.__init__(self, config, add_pooling_layer=False)

    return type(model_class.__name__, (model_class,), {"__init__": build, "__module__": model_class.__module__})


def items_of(config: HfEncoderConfig, number: int = 3, random: torch.Generator | None = None) -> Items:
    """Pictures of one size; sounds of unequal lengths, two of which are alike."""
    random = random or torch.Generator().manual_seed(3)
    name = config.architecture.input_name
    if config.architecture.modality == "image":
        return Items({name: torch.randn(number, 3, config.side, config.side, generator=random)}, ((config.side, config.side),) * number)
    kind, values = config.sounds.kind, config.values
    if kind == "spectrogram":
        size = (values["max_length"],)
        return Items({name: torch.randn(number * size[0], values["num_mel_bins"], generator=random)}, (size,) * number)
    lengths = [(61, 92, 61, 40, 123)[index % 5] for index in range(number)]
    if kind == "paired spectrogram":
        lengths = [length // 10 for length in lengths]
        width = (values["feature_projection_input_dim"],)
    else:
        width = ()
    return Items({name: torch.randn(sum(lengths), *width, generator=random)}, tuple((length,) for length in lengths))


def their_features(config: HfEncoderConfig, items: Items, model: Any) -> Tensor:
    """Of the items one by one, `[N, W]`."""
    given = items.inputs[config.architecture.input_name].split([config.num_rows(size) for size in items.sizes])
    features = []
    for item in given:
        batch = item if config.architecture.modality == "image" else item[None]
        hidden = model(**{config.architecture.input_name: batch}).last_hidden_state[0]
        if hidden.dim() == 3:
            hidden = hidden.flatten(1).T
        features.append(hidden if config.prefix_tokens == "kept" else hidden[config.num_prefix_tokens :])
    return torch.cat(features)
