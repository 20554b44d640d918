"""The audio models in the list. An item's size is (samples,) of 16,000 a second, or (frames,) where a model takes those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loongforge_core.component import Shape
from loongforge_hf.hf_encoder.architecture import KEY_BIAS, Architecture, Sounds, Values, not_a_multiple, unequal_lengths

__all__ = ["AUDIO"]

NEUTRAL = {
    **{"hidden_dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0},
    **{"final_dropout": 0.0, "layerdrop": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0},
}
TRAINED_WITH = (
    *("vocab_size", "classifier_proj_size", "ctc_loss_reduction", "ctc_zero_infinity", "use_weighted_layer_sum", "num_ctc_classes"),
    *("tdnn_dim", "tdnn_kernel", "tdnn_dilation", "xvector_output_dim", "adapter_*", "num_adapter_layers", "output_hidden_size"),
    *("num_codevectors_per_group", "num_codevector_groups", "codevector_dim", "proj_codevector_dim", "num_negatives"),
    *("contrastive_logits_temperature", "diversity_loss_weight", "mask_*", "no_mask_*", "feat_extract_dropout"),
    *("freeze_feat_extract_train", "gradient_checkpointing", "replace_prob"),
)
"""Keys of pretraining, of heads, and of the adapter that is not built."""
HEADS = {
    "*masked_spec_embed": "stands for sound hidden in training, and nothing is hidden here",
    "quantizer.*": "of the loss of pretraining",
    "project_q.*": "of the loss of pretraining",
    "project_hid.*": "of the loss of pretraining",
    "lm_head.*": "a head that transcribes",
    "classifier.*": "a classifier's head",
    "projector.*": "a classifier's head",
    "layer_weights": "a classifier's head",
}
WEIGHT_NORM = {
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}


def convolved(values: Values, size: Shape) -> Shape:
    """What a row of convolutions without padding leaves of so many samples."""
    (length,) = size
    for kernel, stride in zip(values["conv_kernel"], values["conv_stride"], strict=True):
        length = (length - kernel) // stride + 1
        if length < 1:
            raise ValueError(f"a sound of {size[0]} samples is too short for the convolutions: expected {least_samples(values)} at least")
    return (length,)


def least_samples(values: Values) -> int:
    """The fewest samples that give a token."""
    least = 1
    for kernel, stride in zip(reversed(values["conv_kernel"]), reversed(values["conv_stride"]), strict=True):
        least = (least - 1) * stride + kernel
    return least


def patched(values: Values, size: Shape) -> Shape:
    """(bands, times) of patches that overlap."""
    bands, times = values["num_mel_bins"], values["max_length"]
    patch = values["patch_size"]
    return (bands - patch) // values["frequency_stride"] + 1, (times - patch) // values["time_stride"] + 1


def spectrogram_fits(values: Values) -> str:
    if unequal := not_a_multiple(values, [("hidden_size", "num_attention_heads")]):
        return unequal
    small = [key for key in ("num_mel_bins", "max_length") if values[key] < values["patch_size"]]
    return f"config.{small[0]} {values[small[0]]} is less than patch_size {values['patch_size']}" if small else ""


def layers_fit(values: Values) -> str:
    return unequal_lengths(values, "conv_dim", "conv_kernel", "conv_stride") or not_a_multiple(
        values, [("hidden_size", "num_attention_heads"), ("hidden_size", "num_conv_pos_embedding_groups")]
    )


def conformer_fits(values: Values) -> str:
    if values["conv_depthwise_kernel_size"] % 2 == 0:
        return f"config.conv_depthwise_kernel_size {values['conv_depthwise_kernel_size']} must be odd"
    if values["feature_projection_input_dim"] % 2:
        return f"config.feature_projection_input_dim {values['feature_projection_input_dim']} must be even: two frames are one position"
    return not_a_multiple(values, [("hidden_size", "num_attention_heads")])


LAYERS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
CONVOLUTIONS: dict[str, Any] = {
    "feat_extract_activation": "gelu",
    "conv_dim": [512] * 7,
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_bias": False,
    "num_conv_pos_embedding_groups": 16,
}
WAV2VEC2: dict[str, Any] = {
    **LAYERS,
    **CONVOLUTIONS,
    **{"feat_extract_norm": "group", "num_conv_pos_embeddings": 128, "do_stable_layer_norm": False},
}

SAMPLES: dict[str, Any] = {
    "neutral": NEUTRAL,
    "required": {"add_adapter": False},
    "derived": {"num_feat_extract_layers": lambda values: len(values["conv_dim"])},
    "ignored": TRAINED_WITH,
    "tensors_ignored": HEADS,
    "tensors_carried": KEY_BIAS,
    "old_names": WEIGHT_NORM,
    "input_name": "input_values",
    "layers": r"encoder\.layers\.\d+",
    "grid": convolved,
    "problem": layers_fit,
    "processor": Sounds("samples"),
}

AUDIO: Mapping[str, Architecture] = {
    "wav2vec2": Architecture(
        **SAMPLES
        | {
            "model_class": "Wav2Vec2Model",
            "config_class": "Wav2Vec2Config",
            "model_type": "wav2vec2",
            "published": "facebook/wav2vec2-base",
            "settings": WAV2VEC2,
            "neutral": {**NEUTRAL, "feat_quantizer_dropout": 0.0},
        }
    ),
    "hubert": Architecture(
        **SAMPLES
        | {
            "model_class": "HubertModel",
            "config_class": "HubertConfig",
            "model_type": "hubert",
            "published": "facebook/hubert-base-ls960",
            "settings": {**WAV2VEC2, "feat_proj_layer_norm": True},
            "required": {"conv_pos_batch_norm": False},
        }
    ),
    "wavlm": Architecture(
        **SAMPLES
        | {
            "model_class": "WavLMModel",
            "config_class": "WavLMConfig",
            "model_type": "wavlm",
            "published": "microsoft/wavlm-base-plus",
            "settings": {**WAV2VEC2, "num_buckets": 320, "max_bucket_distance": 800},
            "processor": Sounds("samples", normalise=False),
        }
    ),
    "data2vec_audio": Architecture(
        **SAMPLES
        | {
            "model_class": "Data2VecAudioModel",
            "config_class": "Data2VecAudioConfig",
            "model_type": "data2vec-audio",
            "published": "facebook/data2vec-audio-base",
            "settings": {**LAYERS, **CONVOLUTIONS, "conv_pos_kernel_size": 19, "num_conv_pos_embeddings": 5},
            "old_names": {},
        }
    ),
    "wav2vec2_bert": Architecture(
        **SAMPLES
        | {
            "model_class": "Wav2Vec2BertModel",
            "config_class": "Wav2Vec2BertConfig",
            "model_type": "wav2vec2-bert",
            "published": "facebook/w2v-bert-2.0",
            "settings": {
                **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
                **{"hidden_act": "swish", "layer_norm_eps": 1e-5, "feature_projection_input_dim": 160},
                **{"left_max_position_embeddings": 64, "right_max_position_embeddings": 8, "conv_depthwise_kernel_size": 31},
            },
            "neutral": {**NEUTRAL, "conformer_conv_dropout": 0.0},
            "required": {"add_adapter": False, "position_embeddings_type": "relative_key"},
            "derived": {},
            "tensors_carried": {name.replace("k_proj", "linear_k"): reason for name, reason in KEY_BIAS.items()},
            "ignored": (*TRAINED_WITH, "rotary_embedding_base", "max_source_positions", "use_intermediate_ffn_before_adapter"),
            "old_names": {},
            "input_name": "input_features",
            "grid": lambda values, size: size,
            "problem": conformer_fits,
            "processor": Sounds("paired spectrogram"),
        }
    ),
    "ast": Architecture(
        model_class="ASTModel",
        config_class="ASTConfig",
        model_type="audio-spectrogram-transformer",
        published="MIT/ast-finetuned-audioset-10-10-0.4593",
        settings={
            **LAYERS,
            **{"layer_norm_eps": 1e-12, "patch_size": 16, "qkv_bias": True, "frequency_stride": 10, "time_stride": 10},
            **{"max_length": 1024, "num_mel_bins": 128},
        },
        neutral={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        tensors_ignored={"classifier.*": "a classifier's head"},
        tensors_carried=KEY_BIAS,
        input_name="input_values",
        layers=r"layers\.\d+",
        num_prefix_tokens=lambda values: 2,
        grid=patched,
        problem=spectrogram_fits,
        processor=Sounds("spectrogram"),
    ),
}
