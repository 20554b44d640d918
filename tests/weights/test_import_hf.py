"""Reading a folder: all that is wrong at once and nothing filled, or every tensor in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from loongforge_core.errors import WeightsError
from loongforge_core.testing.reference import Ours
from loongforge_core.weights.import_hf import import_hf

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


def read(folder: Any, built: Ours) -> None:
    import_hf(folder.path, built.target, built.table, built.config)


def problems(folder: Any, built: Ours) -> list[str]:
    """Lines of the error, behind the first, which names the folder."""
    before = {name: tensor.detach().clone() for name, tensor in built.model.named_parameters()}
    with pytest.raises(WeightsError) as caught:
        read(folder, built)
    first, *others = str(caught.value).splitlines()
    assert first == f"{folder.path} does not fit the model:"
    assert all(torch.equal(tensor, before[name]) for name, tensor in built.model.named_parameters()), "something was filled all the same"
    return [line.strip() for line in others]


@pytest.fixture(autouse=True)
def known_values(request: pytest.FixtureRequest) -> None:
    """Fresh parameters are uninitialised memory, which may hold NaNs; those are not equal to themselves."""
    for name in ("qwen2", "tied_qwen2"):
        if name in request.fixturenames:
            for parameter in request.getfixturevalue(name).model.parameters():
                parameter.data.fill_(7.0)


# ---------------------------------------------------------------------------------------------------------------- tensors


def test_missing_tensor(folder: Any, qwen2: Ours) -> None:
    folder.change_tensors(lambda tensors: tensors.pop(QUERY))
    assert problems(folder, qwen2) == [f"missing tensor {QUERY} [32, 32], for our decoder.layers.1.self_attention.linear_qkv.weight"]


def test_extra_tensor(folder: Any, qwen2: Ours) -> None:
    folder.change_tensors(lambda tensors: tensors.update({"model.layers.1.self_attn.q_norm.weight": torch.ones(8)}))
    assert problems(folder, qwen2) == [
        "extra tensor model.layers.1.self_attn.q_norm.weight [8]: no rule of the table reads it; "
        "did you mean 'model.layers.1.self_attn.q_proj.weight'?"
    ]


def test_wrong_shape(folder: Any, qwen2: Ours) -> None:
    folder.change_tensors(lambda tensors: tensors.update({QUERY: torch.ones(32, 31)}))
    assert problems(folder, qwen2) == [f"{QUERY} has the shape [32, 31], expected [32, 32]"]


def test_a_vocabulary_of_another_size(folder: Any, qwen2: Ours) -> None:
    """Padding is ours alone: the file must have the published rows, neither more nor fewer."""
    folder.change_tensors(lambda tensors: tensors.update({EMBEDDING: torch.ones(104, 32)}))
    assert problems(folder, qwen2) == [f"{EMBEDDING} has the shape [104, 32], expected [99, 32]"]


def test_everything_that_is_wrong_is_said_at_once(folder: Any, qwen2: Ours) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.bias"] = tensors.pop("model.norm.weight")
        tensors[HEAD] = torch.ones(98, 32)

    folder.change_tensors(spoil)
    folder.change_config(num_key_value_heads=4)
    assert [line.split(" ")[0] for line in problems(folder, qwen2)] == ["config.json:", "extra", "missing", HEAD]


def test_a_deeper_model_than_ours(folder: Any, qwen2: Ours) -> None:
    folder.change_tensors(lambda tensors: tensors.update({"model.layers.2.input_layernorm.weight": torch.ones(32)}))
    assert problems(folder, qwen2)[0].startswith("extra tensor model.layers.2.input_layernorm.weight [32]")


def test_buffers_of_earlier_versions_are_no_extra_tensors(folder: Any, qwen2: Ours) -> None:
    folder.change_tensors(lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    read(folder, qwen2)


def test_many_problems_of_a_kind_are_counted(folder: Any, qwen2: Ours) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({f"zzz{number:02}": torch.ones(1) for number in range(30)})
        for name in [name for name in tensors if name.startswith("model.layers.")]:
            del tensors[name]

    folder.change_tensors(spoil)
    said = problems(folder, qwen2)
    assert said[:10] == [f"extra tensor zzz{number:02} [1]: no rule of the table reads it" for number in range(10)]
    assert said[10] == "... and 20 more of these"
    assert [line.split(" ")[0] for line in said[11:21]] == ["missing"] * 10
    assert said[21:] == ["... and 14 more of these"]


def test_another_kind_of_model_is_all_that_is_said(folder: Any, qwen2: Ours) -> None:
    folder.change_tensors(lambda tensors: tensors.update({"zzz": torch.ones(1)}))
    folder.change_config(model_type="gemma", hidden_size=5)
    assert problems(folder, qwen2) == ["config.json: model_type is 'gemma', expected 'qwen2'"]


def test_a_key_twice_in_config(folder: Any, qwen2: Ours) -> None:
    text = (folder.path / "config.json").read_text()
    (folder.path / "config.json").write_text('{"hidden_size": 5,' + text.lstrip().removeprefix("{"))
    with pytest.raises(WeightsError, match=r"config\.json cannot be read as JSON: the key 'hidden_size' is there twice"):
        read(folder, qwen2)


# ------------------------------------------------------------------------------------------------------------ tied weights


def test_a_stored_output_layer_of_a_tied_model(tied_folder: Any, tied_qwen2: Ours) -> None:
    """Some published folders store it (Qwen1.5-0.5B does): the same values, or an error."""
    tied_folder.change_tensors(lambda tensors: tensors.update({HEAD: tensors[EMBEDDING]}))
    read(tied_folder, tied_qwen2)
    tied_folder.change_tensors(lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] + 1}))
    tied_qwen2.model.embedding["word_embeddings"].weight.data.fill_(7.0)
    assert problems(tied_folder, tied_qwen2) == [f"{HEAD} is stored and differs from {EMBEDDING}, but our config ties them"]


def test_a_tied_folder_for_an_untied_model(tied_folder: Any, qwen2: Ours) -> None:
    assert problems(tied_folder, qwen2) == [
        "config.json: tie_word_embeddings is True in the file, but our untie_embeddings_and_output_weights says False",
        f"missing tensor {HEAD} [99, 32], for our output_layer.weight",
    ]


# ------------------------------------------------------------------------------------------------------------- config.json


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"num_attention_heads": 8}, "num_attention_heads is 8 in the file, but our num_attention_heads says 4"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05 in the file, but our layernorm_epsilon says 1e-06"),
        ({"rope_theta": 1e4}, "rope_theta is 10000.0 in the file, but our rotary_base says 1000000.0"),
        ({"use_sliding_window": True}, "use_sliding_window is True in the file; only False is supported"),
        ({"use_mrope": True}, "use_mrope is True in the file; only False is supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config.bits is 4 in the file, but no table knows this key"),
        ({"model_type": "llama"}, "model_type is 'llama', expected 'qwen2'"),
        ({"hidden_sizes": 32}, "hidden_sizes is 32 in the file, but no table knows this key; did you mean 'hidden_size'?"),
    ],
)
def test_config_that_disagrees(change: dict[str, Any], expected: str, folder: Any, qwen2: Ours) -> None:
    folder.change_config(**change)
    (problem,) = problems(folder, qwen2)
    assert problem.startswith(f"config.json: {expected}")


def test_config_as_published_before_transformers_5(folder: Any, qwen2: Ours) -> None:
    """Qwen2.5's own config.json, but for its sizes."""
    folder.change_config(rope_parameters=None, rope_theta=1000000.0, layer_types=None, torch_dtype="bfloat16", sliding_window=32768)
    folder.change_config(bos_token_id=1, eos_token_id=2, use_mrope=False, max_window_layers=21)
    read(folder, qwen2)


@pytest.mark.parametrize("text, expected", [("{", "cannot be read as JSON"), ("[]", "holds a list, expected an object")])
def test_config_that_is_no_object(text: str, expected: str, folder: Any, qwen2: Ours) -> None:
    (folder.path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=rf"config\.json {expected}"):
        read(folder, qwen2)


def test_no_config(folder: Any, qwen2: Ours) -> None:
    (folder.path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json does not exist"):
        read(folder, qwen2)


# ------------------------------------------------------------------------------------------------------------------ values


def test_padding_of_the_vocabulary_is_zero(folder: Any, qwen2: Ours) -> None:
    read(folder, qwen2)
    for parameter in (qwen2.model.embedding["word_embeddings"].weight, qwen2.model.output_layer.weight):
        assert parameter.shape[0] == 104
        assert not parameter[99:].any()
        assert parameter[98].any()


def test_dtype_is_converted(folder: Any, qwen2: Ours) -> None:
    qwen2.model.to(torch.bfloat16)
    read(folder, qwen2)
    assert torch.equal(qwen2.model.decoder.final_layernorm.weight, folder.tensors["model.norm.weight"].to(torch.bfloat16))


def test_a_folder_that_is_not_there(qwen2: Ours, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere"):
        import_hf(tmp_path / "nowhere", qwen2.target, qwen2.table, qwen2.config)
