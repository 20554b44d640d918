"""An exported LLaVA has everything that a server needs; what cannot be exported so is refused, or exported part by part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from llava import IMAGE_TOKEN_ID, TOKENIZER, composition, tokens_per_image
from PIL import Image

from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import Ours, different_tensors, our_model, read_tensors, redraw
from loongforge_core.weights.export_hf import export_hf
from loongforge_core.weights.formats import whole_table
from loongforge_core.weights.load import import_model


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
