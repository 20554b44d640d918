"""Whisper's encoder on disk: the encoder half of a published Whisper folder, or `WhisperEncoder` alone.

Published folders have the prefix `model.encoder.`, a bare `WhisperModel` has `encoder.`, the encoder alone none; all are read, and the
last is written, which is what `WhisperEncoder.from_pretrained` reads.
"""

from __future__ import annotations

from loongforge_audio.whisper.config import WhisperConfig
from loongforge_core.weights.config_keys import GENERIC_KEYS, ConfigKey, Constant, Ignored, Key
from loongforge_core.weights.rules import TENSOR, WEIGHT, WEIGHT_AND_BIAS, Copy, FusedQkv, Rule, per_layer
from loongforge_core.weights.table import Table

__all__ = ["CARRIED", "encoder_keys", "rules", "table"]

CARRIED = {"position_embedding.weight": "a fixed table of sinusoids"}


def table(config: WhisperConfig) -> Table:
    return Table(
        rules=rules(config),
        keys=(
            *encoder_keys(layers=4, width=384, ffn=1536, heads=6, mel_bins=80),
            Ignored(
                ("decoder_*", "max_target_positions", "vocab_size", "tie_word_embeddings", "forced_decoder_ids", "median_filter_width"),
                "of the decoder and of what it says",
            ),
            Ignored(("apply_spec_augment", "mask_*"), "distorts training data, none of which is published"),
            Ignored(("use_weighted_layer_sum", "classifier_proj_size"), "of `WhisperForAudioClassification`"),
        ),
        model_type="whisper",
        architectures=("WhisperEncoder",),
        aliases={"model.encoder.": "", "encoder.": ""},
        ignored={
            "model.decoder.*": "the decoder of a Whisper",
            "decoder.*": "the decoder of a WhisperModel",
            "proj_out.weight": "the decoder's output, in folders of earlier versions of transformers",
        },
        carried=CARRIED,
    )


def encoder_keys(*, layers: int, width: int, ffn: int, heads: int, mel_bins: int) -> tuple[ConfigKey, ...]:
    """The keys that all encoders of this kind share; the arguments are transformers' defaults."""
    return (
        Key("encoder_layers", "num_layers", layers, also=("num_hidden_layers",)),
        Key("d_model", "hidden_size", width),
        Key("encoder_ffn_dim", "ffn_hidden_size", ffn),
        Key("encoder_attention_heads", "num_attention_heads", heads),
        Key("num_mel_bins", "num_mel_bins", mel_bins),
        Key("max_source_positions", "max_source_positions", 1500),
        Constant("activation_function", "gelu", "gelu"),
        Constant("dropout", 0.0, 0.0),
        Constant("attention_dropout", 0.0, 0.0),
        Constant("activation_dropout", 0.0, 0.0),
        Constant("encoder_layerdrop", 0.0, 0.0),
        Ignored(("scale_embedding",), "of the decoder's embeddings; an encoder has none"),
        Ignored(("init_std",), "how fresh weights are drawn"),
        GENERIC_KEYS,
    )


def rules(config: WhisperConfig) -> tuple[Rule, ...]:
    layer = (
        Copy("self_attn_layer_norm", "input_layernorm", parts=WEIGHT_AND_BIAS),
        FusedQkv(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "self_attention.linear_qkv",
            parts=WEIGHT,
            num_heads=config.num_attention_heads,
            num_groups=config.num_attention_heads,
            head_size=config.hidden_size // config.num_attention_heads,
        ),
        Copy("self_attn.q_proj.bias", "self_attention.query_bias", parts=TENSOR),
        Copy("self_attn.v_proj.bias", "self_attention.value_bias", parts=TENSOR),
        Copy("self_attn.out_proj", "self_attention.linear_proj", parts=WEIGHT_AND_BIAS),
        Copy("final_layer_norm", "pre_mlp_layernorm", parts=WEIGHT_AND_BIAS),
        Copy("fc1", "mlp.linear_fc1", parts=WEIGHT_AND_BIAS),
        Copy("fc2", "mlp.linear_fc2", parts=WEIGHT_AND_BIAS),
    )
    return (
        Copy("conv1", "conv1", parts=WEIGHT_AND_BIAS),
        Copy("conv2", "conv2", parts=WEIGHT_AND_BIAS),
        Copy("embed_positions", "position_embedding", parts=WEIGHT),
        *per_layer(layer, "layers.{i}.", "transformer.layers.{i}.", range(config.num_layers)),
        Copy("layer_norm", "final_layernorm", parts=WEIGHT_AND_BIAS),
    )
