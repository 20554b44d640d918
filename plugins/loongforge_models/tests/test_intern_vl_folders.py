"""InternVL's folders as they were published: made by version 4 of transformers, and in OpenGVLab's format, which is written too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from intern_vl import TEXT_TEMPLATE, composition, reference, tokenizer_in

from loongforge_core.config.composition import Composition
from loongforge_core.errors import WeightsError
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.reference import different_tensors, our_model, read_tensors, redraw
from loongforge_core.weights.export_hf import export_component, export_hf
from loongforge_core.weights.load import import_model

# ----------------------------------------------------------------------------------------------- folders of earlier versions

EARLIER_VISION = {"architectures": ["InternVisionModel"], "dropout": 0.0, "initializer_factor": 0.1, "torch_dtype": "bfloat16"}
EARLIER_TEXT = {"attn_implementation": "flash_attention_2", "debug": False, "ep_size": 1, "micro_forward": False, "rope_scaling": None}
EARLIER_TEXT |= {"rope_theta": 1e6, "skip_checkpoint": False, "torch_dtype": "bfloat16", "use_cache": True, "use_deepep": False}


def earlier(folder: Path, *, top: bool | None = None, text: bool | None = None, **case: Any) -> Any:
    """A folder of the reference, whose config.json OpenGVLab made of its own for version 4 of transformers: InternVL3.5's for example.

    `top` and `text` are what it says of tied tables; at the top that version said nothing.
    """
    theirs = reference(**case)
    redraw(theirs)
    theirs.save_pretrained(folder)
    tree = json.loads((folder / "config.json").read_text())
    for section, own in (("vision_config", EARLIER_VISION), ("text_config", EARLIER_TEXT)):
        tree[section] = {**tree[section], **own}
    del tree["text_config"]["rope_parameters"]
    for section, tied in ((tree, top), (tree["text_config"], text)):
        section["tie_word_embeddings"] = tied
    (folder / "config.json").write_text(json.dumps(tree))
    return theirs


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("said", [True, False], ids=["the text says whether it is tied", "the tensors alone say it"])
def test_folders_of_version_4_are_read(said: bool, tied: bool, tmp_path: Path) -> None:
    theirs, ours = earlier(tmp_path, text=tied if said else None, tied=tied), composition(tied=tied)
    with our_model(ours) as built:
        import_model(tmp_path, built.target, ours, Registry.discover())
        foundation = built.model.foundation
        table = foundation.embedding["word_embeddings"].weight
        assert torch.equal(table, theirs.model.language_model.embed_tokens.weight)
        assert torch.equal(table if tied else foundation.output_layer.weight, theirs.lm_head.weight)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": True}, "text_config.tie_word_embeddings is True in the file, but our foundation.untie_embeddings_and_output_weights"),
        ({"top": True, "text": False}, "tie_word_embeddings is True in the file, but our foundation.untie_embeddings_and_output_weights"),
        ({"tied": True}, "missing tensor language_model.lm_head.weight"),
    ],
    ids=["the text", "the top", "the tensors"],
)
def test_a_tied_folder_is_refused_for_an_untied_model(given: dict[str, bool], message: str, tmp_path: Path) -> None:
    earlier(tmp_path, **given)
    ours = composition()
    with our_model(ours) as built, pytest.raises(WeightsError, match=message):
        import_model(tmp_path, built.target, ours, Registry.discover())


# ------------------------------------------------------------------------------------------------------- OpenGVLab's own folders


def test_the_same_weights_in_both_formats(tmp_path: Path) -> None:
    """Written in OpenGVLab's format, under its published names, and read again: the same tensors in transformers' format as before."""
    theirs, ours = reference(), composition()
    redraw(theirs)
    theirs.save_pretrained(tmp_path / "transformers")
    for folder in ("opengvlab", "back"):
        (tmp_path / folder).mkdir()
    with our_model(ours) as built:
        import_model(tmp_path / "transformers", built.target, ours, Registry.discover())
        export_component(tmp_path / "opengvlab", built.target, built.table.alternatives["OpenGVLab"], built.config)
        redraw(built.model, seed=1)
        import_model(tmp_path / "opengvlab", built.target, ours, Registry.discover())
        export_component(tmp_path / "back", built.target, built.table, built.config)
    assert not different_tensors(read_tensors(tmp_path / "transformers"), read_tensors(tmp_path / "back"))
    names = read_tensors(tmp_path / "opengvlab").keys()
    assert not PUBLISHED_NAMES - names
    assert {name.split(".")[0] for name in names} == {"vision_model", "mlp1", "language_model"}


PUBLISHED_NAMES = {
    "vision_model.embeddings.class_embedding",
    "vision_model.embeddings.position_embedding",
    "vision_model.encoder.layers.1.attn.qkv.bias",
    "vision_model.encoder.layers.1.ls2",
    "mlp1.0.weight",
    "mlp1.1.bias",
    "mlp1.3.weight",
    "language_model.lm_head.weight",
    "language_model.model.layers.1.self_attn.k_proj.bias",
}

PUBLISHED_CONFIG = {
    "_commit_hash": None,
    "architectures": ["InternVLChatModel"],
    "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
    "downsample_ratio": 0.5,
    "dynamic_image_size": True,
    "force_image_size": 8,
    "max_dynamic_patch": 4,
    "min_dynamic_patch": 1,
    "model_type": "internvl_chat",
    "ps_version": "v2",
    "select_layer": -1,
    "template": "internvl2_5",
    "torch_dtype": "bfloat16",
    "transformers_version": None,
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    "use_thumbnail": True,
}
"""What a published folder of InternVL2.5-8B says beside its two sections, at the size of these tests."""

VISION_OF_2_5 = {"architectures": ["InternVisionModel"], "drop_path_rate": 0.0, "initializer_factor": 1.0, "initializer_range": 0.02}
VISION_OF_2_5 |= {"output_attentions": False, "output_hidden_states": False, "return_dict": True, "torch_dtype": "bfloat16"}
VISION_OF_2_5 |= {"use_bfloat16": True, "use_flash_attn": True}
VISION_OF_3 = {"_name_or_path": "OpenGVLab/InternViT-6B-448px-V1-5", "capacity_factor": 1.2, "drop_path_rate": 0.1}
VISION_OF_3 |= {"eval_capacity_factor": 1.4, "initializer_factor": 0.1, "initializer_range": 1e-10, "laux_allreduce": "all_nodes"}
VISION_OF_3 |= {"moe_coeff_ratio": 0.5, "moe_intermediate_size": 768, "moe_output_scale": 4.0, "noisy_gate_policy": "RSample_before"}
VISION_OF_3 |= {"num_experts": 8, "num_routed_experts": 4, "num_shared_experts": 4, "shared_expert_intermediate_size": 3072}
VISION_OF_3 |= {"use_flash_attn": False, "use_moe": False, "use_residual": True, "use_rts": False, "use_weighted_residual": False}


def opengvlab_folder(folder: Path, ours: Composition, vision: dict[str, Any]) -> None:
    """An export in OpenGVLab's format whose config.json says all that a published one says."""
    folder.mkdir()
    with our_model(ours) as built:
        export_component(folder, built.target, built.table.alternatives["OpenGVLab"], built.config)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= vision
    config["llm_config"] |= EARLIER_TEXT
    del config["llm_config"]["rope_parameters"]
    (folder / "config.json").write_text(json.dumps({**config, **PUBLISHED_CONFIG}))


@pytest.mark.parametrize("vision", [VISION_OF_2_5, VISION_OF_3], ids=["InternVL2.5", "InternVL3"])
def test_published_opengvlab_folders_are_read(vision: dict[str, Any], tmp_path: Path) -> None:
    ours = composition(text="qwen3")
    opengvlab_folder(tmp_path / "folder", ours, vision)
    with our_model(ours) as built:
        before = read_tensors(tmp_path / "folder")["vision_model.encoder.layers.1.ls2"]
        redraw(built.model, seed=1)
        import_model(tmp_path / "folder", built.target, ours, Registry.discover())
        assert torch.equal(built.target["image_encoder"].transformer.layers[1].mlp_bda.weight, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_moe": True}, "vision_config.use_moe is True in the file; only False is supported"),
        ({"number_of_experts": 8}, "vision_config.number_of_experts is 8 in the file, but no table knows this key"),
        ({"qkv_bias": False}, "vision_config.qkv_bias is False in the file, but our image_encoder.add_qkv_bias says True"),
    ],
)
def test_another_tower_in_an_opengvlab_folder_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    ours = composition(text="qwen3")
    opengvlab_folder(tmp_path / "folder", ours, {**VISION_OF_3, **change})
    with our_model(ours) as built, pytest.raises(WeightsError, match=message):
        import_model(tmp_path / "folder", built.target, ours, Registry.discover())


def test_internlm2_is_exported_as_opengvlab_publishes_it(tmp_path: Path) -> None:
    ours, registry = composition(text="internlm2"), Registry.discover()
    tokenizer = tokenizer_in(tmp_path, TEXT_TEMPLATE)
    with our_model(ours) as built:
        export_hf(built.target, ours, registry, tmp_path / "export", tokenizer=tokenizer)
        config = json.loads((tmp_path / "export" / "config.json").read_text())
        sections = {"llm_config": config["llm_config"], "vision_config": config["vision_config"]}
        assert (sections["llm_config"]["model_type"], sections["vision_config"]["model_type"]) == ("internlm2", "intern_vit_6b")
        # Without these OpenGVLab's code does not begin: it chooses the language model's class by name.
        assert sections["llm_config"]["architectures"] == ["InternLM2ForCausalLM"]
        assert sections["vision_config"]["architectures"] == ["InternVisionModel"]
        assert config["template"] == "internvl2_5" and config["auto_map"]["AutoModel"] == "modeling_internvl_chat.InternVLChatModel"
        assert transformers.AutoTokenizer.from_pretrained(tmp_path / "export").eos_token == "<|im_end|>"
        sections["llm_config"] |= {
            "attn_implementation": "flash_attention_2",
            "auto_map": {"AutoConfig": "a.B"},
            "tie_word_embeddings": False,
        }
        (tmp_path / "export" / "config.json").write_text(json.dumps({**PUBLISHED_CONFIG, **sections}))
        before = {name: parameter.clone() for name, parameter in built.model.named_parameters()}
        redraw(built.model, seed=1)
        import_model(tmp_path / "export", built.target, ours, registry)
        assert not different_tensors(before, dict(built.model.named_parameters()))
    assert "language_model.model.tok_embeddings.weight" in read_tensors(tmp_path / "export")


def test_an_opengvlab_folder_that_disagrees_is_refused(tmp_path: Path) -> None:
    ours = composition()
    (tmp_path / "folder").mkdir()
    with our_model(ours) as built:
        export_component(tmp_path / "folder", built.target, built.table.alternatives["OpenGVLab"], built.config)
        config = json.loads((tmp_path / "folder" / "config.json").read_text())
        (tmp_path / "folder" / "config.json").write_text(json.dumps({**config, "ps_version": "v1", "max_dynamic_patch": 6}))
        with pytest.raises(WeightsError, match=r"ps_version is 'v1' in the file; only 'v2' is supported") as raised:
            import_model(tmp_path / "folder", built.target, ours, Registry.discover())
        assert "max_dynamic_patch is 6 in the file, but our image_encoder.max_tiles says 4" in str(raised.value)
