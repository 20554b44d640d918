"""LLaVA: parity of the whole model with transformers, round trip, export with everything that a server needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import SiglipVisionConfig

import loongforge_models
from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.parity import check_parity
from loongforge_core.testing.reference import Ours, different_tensors, our_model, read_tensors, redraw
from loongforge_core.testing.roundtrip import check_loads_without_remarks, check_through
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.import_hf import import_hf
from loongforge_core.weights.load import import_model

TOKENIZER = Path(loongforge_models.__file__).parent / "digits" / "tokenizer"
IMAGE_TOKEN_ID = transformers.AutoTokenizer.from_pretrained(TOKENIZER).convert_tokens_to_ids("<image>")
VOCAB_SIZE = 264

ENCODER = {"type": "siglip", "num_layers": 2, "hidden_size": 24, "ffn_hidden_size": 40, "num_attention_heads": 4}
ENCODER |= {"image_size": 8, "patch_size": 4}
FOUNDATION = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "num_query_groups": 2}
FOUNDATION |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 64}

VISION = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "image_size": 8, "patch_size": 4}
TEXT = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
TEXT |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 64}
TEXT_CLASSES = {"qwen2": (transformers.Qwen2Config, 1e6), "llama": (transformers.LlamaConfig, 5e5)}


def composition(
    *, feature_layer: int = -1, head: bool = False, text: str = "qwen2", tied: bool = False, recipe: str = "llava", **encoder: Any
) -> Composition:
    model = {
        "model_type": recipe,
        "image_encoder": {**ENCODER, "feature_layer": feature_layer, "attention_pooling_head": head, **encoder},
        "image_projector": {"type": "mlp"},
        "foundation": {"type": text, **FOUNDATION, "untie_embeddings_and_output_weights": not tied},
    }
    return composition_from({"model": model}, Registry.discover())


def reference(*, feature_layer: int = -1, head: bool = False, text: str = "qwen2", tied: bool = False) -> transformers.PreTrainedModel:
    text_class, rotary_base = TEXT_CLASSES[text]
    rotary = {"rope_type": "default", "rope_theta": rotary_base}
    text_config = text_class(**TEXT, rope_parameters=rotary, tie_word_embeddings=tied, rms_norm_eps=1e-6 if text == "qwen2" else 1e-5)
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=SiglipVisionConfig(**VISION, vision_use_head=head),
            text_config=text_config,
            vision_feature_layer=feature_layer,
            vision_feature_select_strategy="full",
            image_token_index=IMAGE_TOKEN_ID,
            image_seq_length=4,
        )
    )


CASES: list[dict[str, Any]] = [
    {"feature_layer": -1},
    {"feature_layer": -2},
    {"feature_layer": -2, "head": True, "tied": True},
    {"feature_layer": -1, "text": "llama"},
]


# ----------------------------------------------------------------------------------------------------------------- parity

TOKENS_PER_IMAGE = 4
SAMPLES = ("aIaaIa", "aaa", "Iaa")
"""Text tokens and images: two images that do not touch, none, one at the very beginning."""


def batch() -> Batch:
    """Samples of unequal lengths, padded on the right."""
    generator = torch.Generator().manual_seed(5)
    rows: list[list[int]] = []
    for sample in SAMPLES:
        texts = torch.randint(4, 200, (len(sample),), generator=generator).tolist()
        tokens = [[PLACEHOLDER_ID] * TOKENS_PER_IMAGE if letter == "I" else [token] for letter, token in zip(sample, texts, strict=True)]
        rows.append(sum(tokens, []))
    length = max(map(len, rows))
    ids_bs = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    is_token_bs = torch.tensor([[1.0] * len(row) + [0.0] * (length - len(row)) for row in rows])
    sample_N, position_N = torch.nonzero(ids_bs == PLACEHOLDER_ID, as_tuple=True)
    images = "".join(SAMPLES).count("I")
    pixels = torch.randn(images, 3, 8, 8, generator=generator)
    return Batch(
        token_ids_bs=ids_bs,
        labels_bs=ids_bs,
        loss_mask_bs=is_token_bs,
        position_ids=torch.arange(length).expand(len(rows), -1),
        items={"image": Items({"pixel_values": pixels}, ((8, 8),) * images)},
        placements={"image": Placement(sample_N, position_N)},
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(case: dict[str, Any], tmp_path: Path) -> None:
    given = batch()
    real = given.loss_mask_bs.bool()

    def run_ours(model: Any) -> Tensor:
        return model(given, with_labels=False)[real]

    def run_reference(model: Any) -> Tensor:
        ids_bs = torch.where(given.token_ids_bs == PLACEHOLDER_ID, IMAGE_TOKEN_ID, given.token_ids_bs)
        pixels = given.items["image"].inputs["pixel_values"]
        return model(input_ids=ids_bs, pixel_values=pixels, attention_mask=real.long()).logits[real]

    with our_model(composition(**case)) as built:
        check_parity(built, reference(**case), tmp_path, run_ours=run_ours, run_reference=run_reference)


# ------------------------------------------------------------------------------------------------------------- round trip


def add_placeholder_id(folder: Path) -> None:
    """`export_hf` takes it from the tokenizer, which a table alone does not have."""
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, "image_token_index": IMAGE_TOKEN_ID}))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_round_trip(case: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours = reference(**case), composition(**case)
    redraw(theirs)
    theirs.save_pretrained(tmp_path / "reference")
    with our_model(ours) as built:
        import_model(tmp_path / "reference", built.target, ours, Registry.discover())
        export_hf(built.target, ours, Registry.discover(), tmp_path / "export", tokenizer=TOKENIZER)
        redraw(built.model, seed=1)
        import_model(tmp_path / "export", built.target, ours, Registry.discover())
        export_hf(built.target, ours, Registry.discover(), tmp_path / "again", tokenizer=TOKENIZER)
    assert not different_tensors(read_tensors(tmp_path / "export"), read_tensors(tmp_path / "again"))
    check_loads_without_remarks(theirs, tmp_path / "export", tmp_path / "resaved")
