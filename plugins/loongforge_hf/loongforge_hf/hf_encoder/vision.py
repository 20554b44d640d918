"""The vision models in the list. An item's size is (rows, columns) of pixels.

Sizes are those of the published models named; the ways of processing are those of their `preprocessor_config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loongforge_core.component import Shape
from loongforge_hf.hf_encoder.architecture import KEY_BIAS, Architecture, Pictures, Values, not_a_multiple, unequal_lengths

__all__ = ["VISION"]

IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
BACKBONE = ("apply_layernorm", "reshape_hidden_states", "stage_names", "out_features", "out_indices")
"""Keys of the class that makes several maps of features."""
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NO_DROP_PATH = {**NO_DROPOUT, "drop_path_rate": 0.0}
COLOURS = {"num_channels": 3}
HEADS = {
    "classifier.*": "a classifier's head",
    "*pooler.*": "of the pooled output, which is not made here",
    "*.position_ids": "a buffer of 0, 1, 2, ... that earlier versions of transformers stored",
    "*relative_position_index": "a buffer that earlier versions of transformers stored",
}
PAINTER = {
    "decoder.*": "paints the hidden patches of pretraining",
    "*embeddings.mask_token": "stands for patches hidden in pretraining, and nothing is hidden here",
}
MASK = {"model.*mask_token": "stands for patches hidden in pretraining, and nothing is hidden here"}


def patches(values: Values, size: Shape) -> Shape:
    rows, columns = (side // values["patch_size"] for side in size)
    if not rows or not columns:
        raise ValueError(f"a picture of {size[0]} x {size[1]} pixels has no whole patch of {values['patch_size']} x {values['patch_size']}")
    return rows, columns


def convolved(values: Values, size: Shape) -> Shape:
    """Patches, halved before every stage but the first; what is odd is cut off."""
    rows, columns = patches(values, size)
    times = 2 ** (len(values["depths"]) - 1)
    if rows < times or columns < times:
        raise ValueError(f"a picture of {size[0]} x {size[1]} pixels is too small: expected {times * values['patch_size']} on each side")
    return rows // times, columns // times


def merged(values: Values, size: Shape) -> Shape:
    """Patches, halved behind every stage but the last; what is odd is filled up with zeros."""
    grid, window = size, values["window_size"]
    for part in (values["patch_size"], *[2] * (len(values["depths"]) - 1)):
        grid = tuple(-(-side // part) for side in grid)
    if min(grid) < window:  # there transformers would take a smaller window, for which there are no positions
        rows, columns = grid
        raise ValueError(
            f"a picture of {size[0]} x {size[1]} pixels is too small: {rows} x {columns} patches are left in the last stage, "
            f"and window_size is {window}"
        )
    return grid


def heads_fit(values: Values) -> str:
    return not_a_multiple(values, [("hidden_size", "num_attention_heads")])


def rotary_heads_fit(values: Values) -> str:
    heads = 4 * values["num_attention_heads"]
    given = f"config.hidden_size {values['hidden_size']} is not a multiple of 4 x num_attention_heads {heads // 4}"
    return f"{given}: positions turn pairs of numbers, for rows and for columns" if values["hidden_size"] % heads else ""


def window_heads_fit(values: Values) -> str:
    if unequal := unequal_lengths(values, "depths", "num_heads"):
        return unequal
    for stage, heads in enumerate(values["num_heads"]):
        if (width := values["embed_dim"] * 2**stage) % heads:
            return f"stage {stage + 1} is embed_dim x {2**stage} = {width} wide, which is not a multiple of its num_heads {heads}"
    return ""


def plain(**changes: Any) -> dict[str, Any]:
    """The settings of a vision transformer, of the base size."""
    return {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "image_size": 224,
        "patch_size": 16,
        "qkv_bias": True,
        **changes,
    }


def without(settings: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


VIT: dict[str, Any] = {
    "neutral": NO_DROPOUT,
    "required": COLOURS,
    "ignored": ("encoder_stride", "pooler_output_size", "pooler_act"),
    "tensors_ignored": {**HEADS, **PAINTER},
    "tensors_carried": KEY_BIAS,
    "input_name": "pixel_values",
    "layers": r"layers\.\d+",
    "grid": patches,
    "problem": heads_fit,
}

DINO: dict[str, Any] = {
    **VIT,
    "neutral": NO_DROP_PATH,
    "tensors_ignored": HEADS,
    "tensors_carried": {**MASK, **KEY_BIAS},
    "ignored": BACKBONE,
    "layers": r"encoder\.layer\.\d+",
    "any_image_size": True,
    "processor": Pictures(224, "crop", 0.875, "bicubic", **IMAGENET),
}

VISION: Mapping[str, Architecture] = {
    "vit": Architecture(
        model_class="ViTModel",
        config_class="ViTConfig",
        model_type="vit",
        published="google/vit-base-patch16-224-in21k",
        settings=plain(),
        num_prefix_tokens=lambda values: 1,
        processor=Pictures(224, resample="bilinear"),
        **VIT,
    ),
    "deit": Architecture(
        **VIT
        | {
            "model_class": "DeiTModel",
            "config_class": "DeiTConfig",
            "model_type": "deit",
            "published": "facebook/deit-base-distilled-patch16-224",
            "settings": plain(),
            "tensors_ignored": {**HEADS, "cls_classifier.*": "a classifier's head", "distillation_classifier.*": "a classifier's head"},
            "num_prefix_tokens": lambda values: 2,
            "processor": Pictures(224, "squash", 0.875, **IMAGENET),
        },
    ),
    "beit": Architecture(
        **VIT
        | {
            "model_class": "BeitModel",
            "config_class": "BeitConfig",
            "model_type": "beit",
            "published": "microsoft/beit-base-patch16-224",
            "settings": without(plain(), "qkv_bias")
            | {
                "use_mask_token": False,
                "use_absolute_position_embeddings": False,
                "use_relative_position_bias": True,
                "use_shared_relative_position_bias": False,
                "layer_scale_init_value": 0.1,
                "use_mean_pooling": True,
            },
            "neutral": NO_DROP_PATH,
            "tensors_carried": MASK,
            "ignored": (
                *BACKBONE,
                *("vocab_size", "pool_scales", "semantic_loss_ignore_index", "add_fpn", "use_auxiliary_head"),
                *("auxiliary_loss_weight", "auxiliary_channels", "auxiliary_num_convs", "auxiliary_concat_input"),
            ),
            "tensors_ignored": {
                **HEADS,
                "lm_head.*": "guesses the hidden patches of pretraining",
                **{f"{part}.*": "a segmentation's head" for part in ("decode_head", "auxiliary_head", "fpn1", "fpn2")},
            },
            "num_prefix_tokens": lambda values: 1,
            "processor": Pictures(224),
        },
    ),
    "dinov2": Architecture(
        model_class="Dinov2Model",
        config_class="Dinov2Config",
        model_type="dinov2",
        published="facebook/dinov2-base",
        settings=without(plain(layer_norm_eps=1e-6, image_size=518, patch_size=14), "intermediate_size")
        | {"mlp_ratio": 4, "layerscale_value": 1.0, "use_swiglu_ffn": False, "use_mask_token": True},
        num_prefix_tokens=lambda values: 1,
        **DINO,
    ),
    "dinov2_with_registers": Architecture(
        model_class="Dinov2WithRegistersModel",
        config_class="Dinov2WithRegistersConfig",
        model_type="dinov2_with_registers",
        published="facebook/dinov2-with-registers-base",
        settings=without(plain(layer_norm_eps=1e-6, image_size=518, patch_size=14), "intermediate_size")
        | {"mlp_ratio": 4, "layerscale_value": 1.0, "use_swiglu_ffn": False, "num_register_tokens": 4},
        num_prefix_tokens=lambda values: 1 + int(values["num_register_tokens"]),
        **DINO,
    ),
    "dinov3_vit": Architecture(
        **DINO
        | {
            "model_class": "DINOv3ViTModel",
            "config_class": "DINOv3ViTConfig",
            "model_type": "dinov3_vit",
            "published": "facebook/dinov3-vitb16-pretrain-lvd1689m",
            "settings": without(plain(layer_norm_eps=1e-5), "qkv_bias")
            | {"rope_theta": 100.0, "layerscale_value": 1.0, "use_gated_mlp": False, "num_register_tokens": 4}
            | {"query_bias": True, "key_bias": False, "value_bias": True, "proj_bias": True, "mlp_bias": True},
            "tensors_carried": MASK,
            "neutral": {
                **{"attention_dropout": 0.0, "drop_path_rate": 0.0},
                **{"pos_embed_shift": None, "pos_embed_jitter": None, "pos_embed_rescale": None},
            },
            "layers": r"model\.layer\.\d+",
            "num_prefix_tokens": lambda values: 1 + int(values["num_register_tokens"]),
            "problem": rotary_heads_fit,
            "processor": Pictures(224, resample="bilinear", **IMAGENET),
        },
    ),
    "ijepa": Architecture(
        model_class="IJepaModel",
        config_class="IJepaConfig",
        model_type="ijepa",
        published="facebook/ijepa_vith14_1k",
        settings=plain(
            hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, intermediate_size=5120, layer_norm_eps=1e-6, patch_size=14
        ),
        processor=Pictures(224, resample="bilinear", **IMAGENET),
        **VIT,
    ),
    "siglip": Architecture(
        **VIT
        | {
            "model_class": "SiglipVisionModel",
            "config_class": "SiglipVisionConfig",
            "model_type": "siglip_vision_model",
            "published": "google/siglip2-base-patch16-224",
            "settings": without(plain(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6), "qkv_bias") | {"vision_use_head": True},
            "neutral": {"attention_dropout": 0.0},
            "ignored": (),
            "parent": "siglip",
            "old_names": {"vision_model.": ""},
            "tensors_ignored": {
                **HEADS,
                "text_model.*": "the text half of a SiglipModel",
                "logit_scale": "joins the two halves of a SiglipModel",
                "logit_bias": "joins the two halves of a SiglipModel",
            },
            "tensors_carried": {**KEY_BIAS, "model.head.*": "of the pooled output, which is not made here"},
            "layers": r"encoder\.layers\.\d+",
            "processor": Pictures(224, resample="bilinear"),
        },
    ),
    "convnextv2": Architecture(
        model_class="ConvNextV2Model",
        config_class="ConvNextV2Config",
        model_type="convnextv2",
        published="facebook/convnextv2-tiny-22k-224",
        settings={
            **{"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3], "patch_size": 4},
            **{"hidden_act": "gelu", "layer_norm_eps": 1e-12},
        },
        neutral={"drop_path_rate": 0.0},
        required=COLOURS,
        derived={"num_stages": lambda values: len(values["depths"])},
        ignored=(*BACKBONE, "image_size"),
        tensors_ignored=HEADS,
        tensors_carried={"model.layernorm.*": "of the pooled output, which is not made here"},
        input_name="pixel_values",
        layers=r"encoder\.stages\.\d+\.layers\.\d+",
        width=lambda values: int(values["hidden_sizes"][-1]),
        grid=convolved,
        any_image_size=True,
        problem=lambda values: unequal_lengths(values, "hidden_sizes", "depths"),
        processor=Pictures(224, "crop", 0.875, "bicubic", **IMAGENET),
    ),
    "swin": Architecture(
        model_class="SwinModel",
        config_class="SwinConfig",
        model_type="swin",
        published="microsoft/swin-tiny-patch4-window7-224",
        settings={
            **{"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7, "mlp_ratio": 4.0},
            **{"hidden_act": "gelu", "layer_norm_eps": 1e-5, "image_size": 224, "patch_size": 4, "qkv_bias": True},
        },
        neutral=NO_DROP_PATH,
        required={**COLOURS, "use_absolute_embeddings": False},
        derived={
            "num_layers": lambda values: len(values["depths"]),
            "hidden_size": lambda values: values["embed_dim"] * 2 ** (len(values["depths"]) - 1),
        },
        ignored=(*BACKBONE, "encoder_stride", "path_norm"),
        tensors_ignored={**HEADS, **PAINTER},
        tensors_carried=KEY_BIAS,
        input_name="pixel_values",
        layers=r"encoder\.layers\.\d+\.blocks\.\d+",
        width=lambda values: int(values["embed_dim"]) * 2 ** (len(values["depths"]) - 1),
        grid=merged,
        any_image_size=True,
        problem=window_heads_fit,
        processor=Pictures(224, **IMAGENET),
    ),
}
