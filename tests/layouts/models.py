"""Small models of every kind, and global batches of unequal micro-batches for them, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from third_party import SPECS

from loongforge_core.config.check import composition_from, load_composition
from loongforge_core.config.composition import Composition
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement
from loongforge_core.registry import Registry

TOKENS_OF_A_PICTURE = 4
VOCABULARY = 101
"""Odd: it is padded for two and for four tensor ranks."""

FOUNDATION: dict[str, Any] = {
    "type": "qwen2",
    "num_layers": 4,
    "hidden_size": 16,
    "ffn_hidden_size": 32,
    "num_attention_heads": 8,
    "num_query_groups": 4,
    "vocab_size": VOCABULARY,
    "init_method_std": 0.1,
}
EXPERTS: dict[str, Any] = {
    "type": "deepseek_v3",
    "num_query_groups": None,
    "kv_lora_rank": 12,
    "qk_head_dim": 8,
    "qk_pos_emb_head_dim": 4,
    "v_head_dim": 6,
    "num_moe_experts": 4,
    "moe_ffn_hidden_size": 20,
    "moe_shared_expert_intermediate_size": 20,
    "moe_layer_freq": [0, 1],
    "moe_router_topk": 2,
    "moe_router_num_groups": 1,
    "moe_router_group_topk": 1,
    "moe_router_bias_update_rate": 0.01,
}
"""What makes two layers of `FOUNDATION` one dense layer and one with experts, with latent attention."""
SIGLIP: dict[str, Any] = {
    "type": "siglip",
    "image_size": 8,
    "patch_size": 4,
    "num_layers": 2,
    "hidden_size": 16,
    "ffn_hidden_size": 32,
    "num_attention_heads": 4,
    "attention_pooling_head": False,
    "init_method_std": 0.1,
}
MLP = {"type": "mlp", "init_method_std": 0.1}
# The gradient of a SigLIP's key bias is nothing but rounding, about 1e-9: with the usual 1e-8 Adam would make steps of it.
TRAIN = {"lr": 1e-2, "steps": 3, "lr_warmup_steps": 1, "adam_eps": 1e-5}

registry = Registry.discover()
for spec in SPECS:
    registry.register(spec)


def composition(slots: Mapping[str, Any], *, tied: bool, model_type: str = "default", **foundation: Any) -> Composition:
    language_model = {**FOUNDATION, "untie_embeddings_and_output_weights": not tied, **foundation}
    return composition_from({"model": {"model_type": model_type, **slots, "foundation": language_model}, "train": TRAIN}, registry)


def language_model(*, tied: bool, **foundation: Any) -> Composition:
    """A decoder alone."""
    return composition({}, tied=tied, **foundation)


def llava(*, tied: bool = False, freeze: bool | Sequence[str] = False) -> Composition:
    """`freeze`: of the image encoder."""
    return composition({"image_encoder": {**SIGLIP, "freeze": freeze}, "image_projector": MLP}, tied=tied, model_type="llava")


def digits(*, tied: bool, freeze: bool | Sequence[str]) -> Composition:
    """The published composition, with as many layers and heads as the layouts need and an odd vocabulary."""
    foundation = {"num_layers": 4, "num_attention_heads": 8, "num_query_groups": 4, "vocab_size": 265}
    settings = {
        **{f"model.foundation.{key}": value for key, value in foundation.items()},
        "model.foundation.untie_embeddings_and_output_weights": str(not tied).lower(),
        "model.image_encoder.freeze": str(list(freeze) if isinstance(freeze, Sequence) else freeze).lower(),
        **{f"train.{key}": value for key, value in TRAIN.items()},
        **dict.fromkeys(("data.path", "data.prepare", "data.eval_path"), "null"),
    }
    return load_composition("digits", [f"{key}={value}" for key, value in settings.items()], registry=registry)


def two_encoders(*, tied: bool, freeze: bool | Sequence[str]) -> Composition:
    """Ours for images, and for videos a third party's that reads Megatron's global state."""
    slots = {
        "image_encoder": {**SIGLIP, "freeze": freeze},
        "image_projector": MLP,
        "video_encoder": {"type": "global_state", "freeze": ["outer.*"] if isinstance(freeze, Sequence) else freeze},
    }
    return composition(slots, tied=tied)


def levels(*, tied: bool, freeze: bool | Sequence[str]) -> Composition:
    """A third party's encoder with two levels, in plain torch."""
    return composition(
        {"image_encoder": {"type": "two_levels", "freeze": ["first.*"] if isinstance(freeze, Sequence) else freeze}}, tied=tied
    )


MODELS: Mapping[str, Callable[..., Composition]] = {"digits": digits, "two encoders": two_encoders, "levels": levels}


def micro_batch(*, seed: int, lengths: Sequence[int], **pictures: Sequence[int]) -> Batch:
    """Samples of so many tokens, drawn by `seed`; of a modality, sample i has `pictures[modality][i]` items behind its first token.

    Two of three tokens are targets.
    """
    random = torch.Generator().manual_seed(seed)
    kinds = {modality: index for index, modality in enumerate(pictures, start=1)}
    rows = []
    for sample, length in enumerate(lengths):
        row = torch.randint(0, VOCABULARY, (length,), generator=random)
        items = [torch.full((TOKENS_OF_A_PICTURE * counts[sample],), -kinds[modality]) for modality, counts in pictures.items()]
        rows.append(torch.cat((row[:1], *items, row[1:])))
    kind_bs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    token_ids_bs = kind_bs.where(kind_bs >= 0, PLACEHOLDER_ID)
    length = token_ids_bs.shape[1]
    real_bs = torch.arange(length) < torch.tensor([[len(row) - 1] for row in rows])
    numbers = {modality: sum(counts) for modality, counts in pictures.items() if sum(counts)}
    return Batch(
        token_ids_bs=token_ids_bs,
        labels_bs=token_ids_bs.roll(-1, 1).clamp(min=0),
        loss_mask_bs=(real_bs & (torch.arange(length) % 3 != 1)).float(),
        position_ids=torch.arange(length).repeat(len(rows), 1),
        items={
            modality: Items({"pixel_values": torch.randn(number, 3, 8, 8, generator=random)}, ((8, 8),) * number)
            for modality, number in numbers.items()
        },
        placements={modality: Placement(*(kind_bs == -kinds[modality]).nonzero(as_tuple=True)) for modality in numbers},
    )


# Three steps of six micro-batches: one and two samples of 3 to 13 tokens, with none to three items. In each step one of two data-parallel
# ranks, whose shares are three micro-batches, has no item; in the third there is no video at all.
LENGTHS = ([5], [9, 3], [12], [3], [7, 13], [4], [6], [3, 8])
IMAGES = (([0], [1, 1], [2], [0], [0, 0], [0]), ([0], [0, 0], [0], [3], [2, 1], [0]), ([1], [0, 2], [0], [0], [0, 0], [0]))
VIDEOS = (([2], [0, 1], [0], [0], [0, 0], [0]), ([0], [0, 0], [0], [0], [0, 1], [2]), ([0], [0, 0], [0], [0], [0, 0], [0]))


def batches(*modalities: str, number: int = 6) -> list[list[Batch]]:
    """So many micro-batches of every step, with items of these modalities (`image`, `video`) in the first six."""
    counts = {"image": IMAGES, "video": VIDEOS}
    return [
        [
            micro_batch(seed=100 + 10 * step + index, lengths=each, **{modality: counts[modality][step][index] for modality in modalities})
            for index, each in enumerate(LENGTHS[:number])
        ]
        for step in range(3)
    ]
