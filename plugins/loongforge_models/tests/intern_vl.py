"""What the tests of InternVL share: compositions, references, tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from families import VOCAB_SIZE, compose, save_tokenizer, token_id

from loongforge_core.config.composition import Composition

TOKENS = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
NAMED = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
# Written after the template of the folders for transformers, and after InternLM2's, which OpenGVLab's folders have.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

ENCODER: dict[str, Any] = {
    "type": "intern_vit",
    "also_encodes": ["video"],
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 40,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 2,
    "max_tiles": 4,
}
LARGE = {"normalization": "RMSNorm", "add_qkv_bias": False, "qk_layernorm": True}
"""What differs in InternViT-6B."""
FOUNDATION = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "num_query_groups": 2}
FOUNDATION |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 512, "rotary_base": 1e6}

VISION = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "attention_bias": True}
VISION |= {"image_size": [8, 8], "patch_size": [2, 2]}
THEIR_LARGE = {"norm_type": "rms_norm", "attention_bias": False, "use_qk_norm": True}
TEXT = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 512, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
EXPERTS = {"num_moe_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 24, "moe_router_load_balancing_type": "none"}
THEIR_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
TEXTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen2": ({}, {}),
    "qwen3": ({"kv_channels": 16}, {"head_dim": 16}),
    "qwen3_moe": (EXPERTS, THEIR_EXPERTS),
    "internlm2": ({"rotary_scaling": {"type": "dynamic", "factor": 2.0}}, {}),
}

CASES: list[dict[str, Any]] = [{}, {"large": True, "text": "qwen3"}, {"text": "qwen3_moe"}, {"tied": True}]


def model(*, large: bool = False, text: str = "qwen2", tied: bool = False) -> dict[str, Any]:
    foundation = {"type": text, **FOUNDATION, **TEXTS[text][0], "untie_embeddings_and_output_weights": not tied}
    encoder = {**ENCODER, **(LARGE if large else {})}
    return {"model_type": "intern_vl", "image_encoder": encoder, "image_projector": {"type": "intern_mlp"}, "foundation": foundation}


def composition(tokenizer: Path | None = None, **case: Any) -> Composition:
    return compose(model(**case), tokenizer)


def reference(*, large: bool = False, text: str = "qwen2", tied: bool = False) -> Any:
    config = transformers.InternVLConfig(
        vision_config={**VISION, **(THEIR_LARGE if large else {})},
        text_config={"model_type": text, **TEXT, **TEXTS[text][1], "tie_word_embeddings": tied},
        tie_word_embeddings=tied,
        image_token_id=token_id("<IMG_CONTEXT>", TOKENS),
        image_seq_length=4,
    )
    return transformers.InternVLForConditionalGeneration(config)


def tokenizer_in(folder: Path, template: str = TEMPLATE) -> Path:
    named = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "extra_special_tokens": NAMED}
    return save_tokenizer(folder / "tokenizer", TOKENS, template, **named)
