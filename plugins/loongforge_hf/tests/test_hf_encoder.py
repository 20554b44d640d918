"""Every model in the list: parity with transformers, round trip, recomputation, bfloat16, layouts, and what is refused."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from loongforge_hf.hf_encoder.config import ARCHITECTURES, HfEncoderConfig
from loongforge_hf.hf_encoder.hearing import least_samples
from tiny_models import CASES, TINY, items_of, ours_of, their_features, theirs_of
from torch import Tensor

from loongforge_core.config.library import published_files
from loongforge_core.layers.interfaces import Items
from loongforge_core.registry.registry import Registry
from loongforge_core.testing.parity import check_encoder
from loongforge_core.testing.reference import ours, redraw
from loongforge_core.testing.roundtrip import check_round_trip
from loongforge_core.testing.sizes import published_config


@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, tmp_path: Path) -> None:
    """Ours is in training mode, as it always is, and theirs is evaluated: no dropout, no layer dropped, nothing masked."""
    config = ours_of(case)
    items = items_of(config)

    def features(model: Any) -> Tensor:
        return their_features(config, items, model)

    check_encoder(config, theirs_of(config), tmp_path, items, features)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, tmp_path: Path) -> None:
    config = ours_of(case)
    check_round_trip(config, theirs_of(config, **config.architecture.neutral), tmp_path)


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_learns_in_bfloat16_recomputed_too(name: str) -> None:
    """What is carried apart. Recomputed gradients are the same, bit for bit: nothing in a layer is random."""
    config, registry = ours_of(name), Registry.discover()
    gradients: list[dict[str, Tensor]] = []
    for recompute in ("none", "full"):
        with ours(config, registry=registry, dtype=torch.bfloat16, recompute=recompute) as built:
            redraw(built.model)
            features = built.model(items_of(config)).hidden_NW
            assert features.dtype == torch.bfloat16 and features.isfinite().all()
            features.float().square().sum().backward()
            parameters = dict(built.model.named_parameters())
            gradients.append({key: each.grad for key, each in parameters.items() if each.grad is not None})
            assert gradients[-1].keys() == {key for key, each in parameters.items() if each.requires_grad}
            carried = {key for key, each in parameters.items() if not each.requires_grad}
            assert all(any(fnmatchcase(key, pattern) for pattern in config.architecture.tensors_carried) for key in carried)
    assert all(torch.equal(gradients[0][key], gradients[1][key]) for key in gradients[0])


def test_recomputed_layers_keep_their_inputs_only() -> None:
    """Fewer bytes are kept for the backward pass."""
    kept: list[int] = []
    for recompute in ("none", "full"):
        with ours(HfEncoderConfig(name="vit", config={**TINY["vit"], "num_hidden_layers": 6}), recompute=recompute) as built:
            redraw(built.model)
            seen: dict[int, int] = {}

            def pack(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
                seen[tensor.data_ptr()] = tensor.nbytes
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                built.model(items_of(built.config))
            kept.append(sum(seen.values()))
    assert kept[1] < kept[0] / 2, kept


@pytest.mark.parametrize("name", TINY)
def test_an_item_is_encoded_alike_whatever_is_beside_it(name: str) -> None:
    config = ours_of(name)
    items = items_of(config, 4)
    rows = [config.num_rows(size) for size in items.sizes]
    tokens = [config.num_tokens(size) for size in items.sizes]
    with ours(config) as built, torch.no_grad():
        redraw(built.model)
        together = built.model(items).hidden_NW.split(tokens)
        for number, (key, value) in enumerate((key, part) for key, whole in items.inputs.items() for part in whole.split(rows)):
            alone = built.model(Items({key: value}, items.sizes[number : number + 1])).hidden_NW
            assert torch.allclose(alone, together[number], atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- tokens


def sides(*pairs: tuple[int, int]) -> list[dict[str, Any]]:
    """Settings with these (image_size, patch_size)."""
    return [{"config": {"image_size": side, "patch_size": patch}} for side, patch in pairs]


COUNTED: dict[str, list[dict[str, Any]]] = {
    **dict.fromkeys(("vit", "deit", "beit", "ijepa", "siglip", "dinov3_vit", "dinov2_with_registers"), sides((24, 5), (23, 6), (7, 7))),
    "dinov2": [*sides((24, 5)), *({"image_size": side} for side in (6, 11, 40))],
    "convnextv2": [{"image_size": side} for side in (6, 11, 12, 17, 23)] + [{"image_size": 13, "config": {"patch_size": 2}}],
    "swin": [{"image_size": side} for side in (9, 12, 13, 25)],
    **{name: [{}] for name in ("wav2vec2", "hubert", "wavlm", "data2vec_audio", "wav2vec2_bert")},
    "ast": [{"config": {"max_length": 13}}, {"config": {"frequency_stride": 5, "time_stride": 2}}, {"config": {"num_mel_bins": 4}}],
}


@pytest.mark.parametrize("name", COUNTED)
def test_tokens_are_counted_without_torch(name: str) -> None:
    """Sizes that nothing divides, and the smallest."""
    for changes in COUNTED[name]:
        given = {"name": name, **changes, "config": {**TINY[name], **changes.get("config", {})}}
        config = HfEncoderConfig(**given)
        items = items_of(config, 5)
        if name in ("wav2vec2", "hubert", "wavlm", "data2vec_audio"):
            lengths = [least_samples(config.values) + extra for extra in (0, 1, 4, 5, 33)]
            items = Items({"input_values": torch.randn(sum(lengths))}, tuple((length,) for length in lengths))
        with ours(config) as built, torch.no_grad():
            redraw(built.model)
            emitted = built.model(items)
        assert emitted.hidden_NW.shape == (sum(map(config.num_tokens, items.sizes)), config.feature_size)
        assert emitted.grids == tuple(map(config.token_grid, items.sizes))


# ---------------------------------------------------------------------------------------------------- published sizes

# Most were counted by their authors; those of DeiT, BEiT, I-JEPA, ConvNeXt, WavLM, data2vec, W2v-BERT and the spectrogram transformer are
# published in millions, or together with a head.
PARAMETERS = {
    "image_encoder/hf_vit_base": 85_798_656,
    "image_encoder/hf_deit_base": 85_800_192,
    "image_encoder/hf_beit_base": 85_760_448,
    "image_encoder/hf_dinov2_base": 86_580_480,
    "image_encoder/hf_dinov2_large": 304_368_640,
    "image_encoder/hf_dinov2_with_registers_base": 86_583_552,
    "image_encoder/hf_dinov3_vit_base": 85_660_416,
    "image_encoder/hf_ijepa_huge": 630_762_240,
    "image_encoder/hf_siglip2_base": 92_884_224,
    "image_encoder/hf_convnextv2_tiny": 27_866_496,
    "image_encoder/hf_swin_tiny": 27_519_354,
    "audio_encoder/hf_wav2vec2_base": 94_370_944,
    "audio_encoder/hf_hubert_base": 94_370_944,
    "audio_encoder/hf_wavlm_base_plus": 94_381_168,
    "audio_encoder/hf_data2vec_audio_base": 93_163_520,
    "audio_encoder/hf_wav2vec2_bert": 580_492_096,
    "audio_encoder/hf_ast": 86_187_264,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_size(name: str) -> None:
    """As many parameters as its authors count, the pooler's and those that stand for what is masked apart."""
    with ours(published_config(name, Registry.discover(), {}), device=torch.device("meta")) as built:
        assert sum(each.numel() for each in built.model.parameters()) == PARAMETERS[name]


def test_every_model_has_a_published_size() -> None:
    registry = Registry.discover()
    names = {published_config(name, registry, {}).name for name in PARAMETERS}  # type: ignore[attr-defined]
    files = {file.name for file in published_files(registry.config_folders) if file.origin.distribution == "loongforge_hf"}
    assert names == set(ARCHITECTURES) and files == PARAMETERS.keys()
