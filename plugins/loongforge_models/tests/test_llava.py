"""LLaVA as a whole: parity with transformers, round trip, what published folders may say, published size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import respell
from llava import CASES, IMAGE_TOKEN_ID, TOKENIZER, composition, reference, tokens_per_image
from torch import Tensor

from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.parity import check_parity
from loongforge_core.testing.reference import different_tensors, our_model, read_tensors, redraw
from loongforge_core.testing.roundtrip import check_loads_without_remarks
from loongforge_core.testing.sizes import check_published_model
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.import_hf import import_hf
from loongforge_core.weights.load import import_model

# ----------------------------------------------------------------------------------------------------------------- parity

SAMPLES = ("aIaaIa", "aaa", "Iaa")
"""Text tokens and images: two images that do not touch, none, one at the very beginning."""


def batch(num_tokens: int) -> Batch:
    """Samples of unequal lengths, padded on the right."""
    generator = torch.Generator().manual_seed(5)
    rows: list[list[int]] = []
    for sample in SAMPLES:
        texts = torch.randint(4, 200, (len(sample),), generator=generator).tolist()
        rows.append([])
        for letter, token in zip(sample, texts, strict=True):
            rows[-1] += [PLACEHOLDER_ID] * num_tokens if letter == "I" else [token]
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
    given = batch(tokens_per_image(case.get("class_token", "dropped")))
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


@pytest.mark.parametrize(
    "renamed",
    [
        pytest.param({"vision_tower.": "vision_tower.vision_model."}, id="published names"),
        pytest.param(
            {
                "language_model.model.": "model.language_model.",
                "language_model.lm_head.": "lm_head.",
                "vision_tower.": "model.vision_tower.",
                "multi_modal_projector.": "model.multi_modal_projector.",
            },
            id="names in memory",
        ),
    ],
)
def test_other_spellings_are_read(renamed: dict[str, str], tmp_path: Path) -> None:
    """What transformers accepts beside the names that it saves afresh."""
    theirs = reference()
    redraw(theirs)
    theirs.save_pretrained(tmp_path)
    respell(tmp_path, renamed)
    with our_model(composition()) as built:
        import_hf(tmp_path, built.target, built.table, built.config)
        assert torch.equal(built.model.foundation.output_layer.weight, theirs.lm_head.weight)
        bias = built.target["image_projector"].linear_1.bias
        assert torch.equal(bias, theirs.model.multi_modal_projector.linear_1.bias)


def test_published_size() -> None:
    """llava-hf/llava-1.5-7b-hf: its card says 7,063,427,072 parameters; figures as in its config.json."""
    vision = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    vision |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768, "vocab_size": 32000}
    text = {"model_type": "llama", "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    text |= {"num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    figures, counts = transformers.LlavaConfig(vision_config=vision, text_config=text), {"parameters": 7_063_427_072, "disk_tensors": 686}
    check_published_model("llava1.5/llava1_5_7b", transformers.LlavaForConditionalGeneration, figures, **counts)
