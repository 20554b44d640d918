"""What the tests of LLaVA share: compositions and references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import loongforge_models
import transformers
from transformers import CLIPVisionConfig, SiglipVisionConfig

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.registry.registry import Registry

TOKENIZER = Path(loongforge_models.__file__).parent / "digits" / "tokenizer"
IMAGE_TOKEN_ID = transformers.AutoTokenizer.from_pretrained(TOKENIZER).convert_tokens_to_ids("<image>")
VOCAB_SIZE = 264

ENCODER = {"num_layers": 2, "hidden_size": 24, "ffn_hidden_size": 40, "num_attention_heads": 4, "image_size": 8, "patch_size": 4}
FOUNDATION = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "num_query_groups": 2}
FOUNDATION |= {"max_position_embeddings": 64}

VISION = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "image_size": 8, "patch_size": 4}
TEXT = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 64}
TEXT_CLASSES = {"qwen2": (transformers.Qwen2Config, 1e6), "llama": (transformers.LlamaConfig, 5e5)}


def composition(
    *,
    feature_layer: int = -1,
    vision: str = "siglip",
    head: bool = False,
    class_token: str = "dropped",
    text: str = "qwen2",
    tied: bool = False,
    recipe: str = "llava",
    vocab_size: int = VOCAB_SIZE,
) -> Composition:
    own = {"attention_pooling_head": head} if vision == "siglip" else {"class_token": class_token}
    model = {
        "model_type": recipe,
        "image_encoder": {"type": vision, **ENCODER, "feature_layer": feature_layer, **own},
        "image_projector": {"type": "mlp"},
        "foundation": {"type": text, **FOUNDATION, "vocab_size": vocab_size, "untie_embeddings_and_output_weights": not tied},
    }
    return composition_from({"model": model}, Registry.discover())


def reference(
    *,
    feature_layer: int = -1,
    vision: str = "siglip",
    head: bool = False,
    class_token: str = "dropped",
    text: str = "qwen2",
    tied: bool = False,
) -> transformers.PreTrainedModel:
    text_class, rotary_base = TEXT_CLASSES[text]
    rotary = {"rope_type": "default", "rope_theta": rotary_base}
    text_config = text_class(**TEXT, rope_parameters=rotary, tie_word_embeddings=tied, rms_norm_eps=1e-6 if text == "qwen2" else 1e-5)
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=SiglipVisionConfig(**VISION, vision_use_head=head) if vision == "siglip" else CLIPVisionConfig(**VISION),
            text_config=text_config,
            vision_feature_layer=feature_layer,
            vision_feature_select_strategy="default" if vision == "clip" and class_token == "dropped" else "full",
            image_token_index=IMAGE_TOKEN_ID,
            image_seq_length=tokens_per_image(class_token),
        )
    )


def tokens_per_image(class_token: str) -> int:
    return 5 if class_token == "kept" else 4


CASES: list[dict[str, Any]] = [
    {"feature_layer": -1},
    {"feature_layer": -2},
    {"feature_layer": -2, "head": True, "tied": True},
    {"feature_layer": -1, "text": "llama"},
    {"feature_layer": -2, "vision": "clip", "text": "llama"},
    {"feature_layer": -2, "vision": "clip", "class_token": "kept"},
]
