"""LLaVA: parity of the whole model with transformers, round trip, export with everything that a server needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import loongforge_models
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, SiglipVisionConfig

from loongforge_core.config.check import composition_from
from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError
from loongforge_core.layers.interfaces import Items
from loongforge_core.model.batch import PLACEHOLDER_ID, Batch, Placement
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.parity import check_parity
from loongforge_core.testing.reference import Ours, different_tensors, our_model, read_tensors, redraw
from loongforge_core.testing.roundtrip import check_loads_without_remarks
from loongforge_core.testing.sizes import check_published_model
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.formats import whole_table
from loongforge_core.weights.import_hf import import_hf
from loongforge_core.weights.load import import_model

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


CASES: list[dict[str, Any]] = [
    {"feature_layer": -1},
    {"feature_layer": -2},
    {"feature_layer": -2, "head": True, "tied": True},
    {"feature_layer": -1, "text": "llama"},
    {"feature_layer": -2, "vision": "clip", "text": "llama"},
    {"feature_layer": -2, "vision": "clip", "class_token": "kept"},
]


# ----------------------------------------------------------------------------------------------------------------- parity

SAMPLES = ("aIaaIa", "aaa", "Iaa")
"""Text tokens and images: two images that do not touch, none, one at the very beginning."""


def tokens_per_image(class_token: str) -> int:
    return 5 if class_token == "kept" else 4


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


def respell(folder: Path, renamed: dict[str, str]) -> None:
    def spelled(name: str) -> str:
        prefix = next((prefix for prefix in renamed if name.startswith(prefix)), "")
        return renamed.get(prefix, "") + name.removeprefix(prefix)

    tensors = load_file(folder / "model.safetensors")
    save_file({spelled(name): tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")


def test_published_size() -> None:
    """llava-hf/llava-1.5-7b-hf: its card says 7,063,427,072 parameters; figures as in its config.json."""
    vision = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    vision |= {"num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768, "vocab_size": 32000}
    text = {"model_type": "llama", "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    text |= {"num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    figures, counts = transformers.LlavaConfig(vision_config=vision, text_config=text), {"parameters": 7_063_427_072, "disk_tensors": 686}
    check_published_model("llava1.5/llava1_5_7b", transformers.LlavaForConditionalGeneration, figures, **counts)


# ---------------------------------------------------------------------------------------------------------------- export


def export(built: Ours, chosen: Composition, folder: Path, **more: Any) -> Path:
    export_hf(built.target, chosen, Registry.discover(), folder, tokenizer=TOKENIZER, **more)
    return folder


@pytest.mark.parametrize("case", [{}, {"vision": "clip"}, {"vision": "clip", "class_token": "kept"}], ids=str)
def test_export_is_all_that_transformers_needs(case: dict[str, Any], tmp_path: Path) -> None:
    """From the folder alone: processor, chat template, model, generation."""
    with our_model(composition(**case)) as built:
        folder = export(built, composition(**case), tmp_path / "hf")
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "LlavaProcessor"
    images = [Image.effect_noise((8, 8), 50) for _ in range(2)]
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(images=images, text=text, return_tensors="pt")
    assert (inputs["input_ids"] == IMAGE_TOKEN_ID).sum() == 2 * tokens_per_image(case.get("class_token", "dropped"))
    assert inputs["pixel_values"].shape == (2, 3, 8, 8)
    model, remarks = transformers.AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert not any(remarks.values())
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    answer = model.generate(**inputs, max_new_tokens=3)
    assert answer.shape[1] > inputs["input_ids"].shape[1]


def test_published_class_of_a_free_combination(tmp_path: Path) -> None:
    """Under the default recipe too, where the shape is LLaVA's."""
    chosen = composition(recipe="default")
    with our_model(chosen) as built:
        folder = export(built, chosen, tmp_path / "hf")
        assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlavaForConditionalGeneration"]
        manifest = json.loads((folder / "manifest.json").read_text())
        assert (manifest["layout"], manifest["recipe"]["name"]) == ("published", "default")
        assert manifest["slots"]["image_encoder"]["distribution"] == "loongforge_vit"


def test_a_language_model_that_transformers_does_not_have_is_exported_part_by_part() -> None:
    """LLaVA's class could not build its text model."""
    registry = Registry.discover()
    for text, has_format in (("llama", True), ("internlm2", False)):
        chosen = composition(text=text)
        assert (whole_table(chosen, registry) is not None) == has_format
    with pytest.raises(ValueError, match="Unrecognized model type for subconfig: internlm2"):
        transformers.LlavaConfig(text_config={"model_type": "internlm2"})


def test_dtype_is_the_model_s(tmp_path: Path) -> None:
    with our_model(composition()) as built:
        for component in built.target.values():
            component.to(torch.bfloat16)
        folder = export(built, composition(), tmp_path / "hf")
    assert {tensor.dtype for tensor in read_tensors(folder).values()} == {torch.bfloat16}
    assert transformers.AutoConfig.from_pretrained(folder).dtype == torch.bfloat16


def test_shards(tmp_path: Path) -> None:
    with our_model(composition()) as built:
        whole = read_tensors(export(built, composition(), tmp_path / "whole"))
        shards = export(built, composition(), tmp_path / "shards", max_shard_bytes=30_000)
        assert len(list(shards.glob("model-*-of-*.safetensors"))) > 2
        assert not different_tensors(whole, read_tensors(shards))
        redraw(built.model)
        import_model(shards, built.target, composition(), Registry.discover())
        assert not different_tensors(whole, read_tensors(export(built, composition(), tmp_path / "again")))
    _, remarks = transformers.AutoModelForImageTextToText.from_pretrained(shards, output_loading_info=True)
    assert not any(remarks.values())


def test_placeholder_is_added_where_there_is_room(tmp_path: Path) -> None:
    """A tokenizer of a language model knows no image token; its embedding table has spare rows, or has not."""
    bare = tmp_path / "tokenizer"
    tokenizer = transformers.AutoTokenizer.from_pretrained(TOKENIZER)
    bare.mkdir()
    (bare / "tokenizer.json").write_text((TOKENIZER / "tokenizer.json").read_text().replace("<image>", "<other>"))
    (bare / "tokenizer_config.json").write_text((TOKENIZER / "tokenizer_config.json").read_text().replace("<image>", "<other>"))
    full, roomy = composition(vocab_size=len(tokenizer)), composition(vocab_size=len(tokenizer) + 1)
    with our_model(full) as built, pytest.raises(WeightsError, match=rf"'<image>'.* {len(tokenizer)} rows are too few to add it"):
        export_hf(built.target, full, Registry.discover(), tmp_path / "full", tokenizer=bare)
    assert not (tmp_path / "full").exists()
    with our_model(roomy) as built:
        export_hf(built.target, roomy, Registry.discover(), tmp_path / "roomy", tokenizer=bare)
    added = transformers.AutoTokenizer.from_pretrained(tmp_path / "roomy").convert_tokens_to_ids("<image>")
    assert json.loads((tmp_path / "roomy" / "config.json").read_text())["image_token_index"] == added == len(tokenizer)


def test_export_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with our_model(composition()) as built, pytest.raises(WeightsError, match=r"needs a tokenizer: config.json holds the id of <image>"):
        export_hf(built.target, composition(), Registry.discover(), tmp_path / "hf")
    assert not list(tmp_path.iterdir())
