"""Every encoder beside its class in `transformers`, for `benchmarks.components`.

The classes of Qwen's vision towers have their mergers in them, so that ours are there with the projector `patch_merger`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from loongforge_audio.qwen2_audio.config import Qwen2AudioConfig
from loongforge_audio.whisper.config import WhisperConfig
from loongforge_hf.hf_encoder.config import HfEncoderConfig
from loongforge_projectors.patch_merger.config import PatchMergerConfig
from loongforge_vit.clip.config import ClipConfig
from loongforge_vit.intern_vit.config import InternVitConfig
from loongforge_vit.native_resolution.config import NativeResolutionConfig
from loongforge_vit.qwen2_5_vl.config import Qwen25VlConfig
from loongforge_vit.qwen3_vl.config import Qwen3VlConfig
from loongforge_vit.siglip.config import SiglipConfig
from torch import Tensor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.case import SIDE_BY_SIDE, Case
from loongforge_core.component import EncoderConfig, Shape
from loongforge_core.layers.interfaces import Features, Items

__all__ = ["LEFT_OUT", "encoders"]

LEFT_OUT = "rice_vit is left out: transformers has no class that computes it"

OURS: dict[str, Any] = {"num_layers": 4, "hidden_size": 256, "ffn_hidden_size": 1024, "num_attention_heads": 8}
THEIRS: dict[str, Any] = {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 8}
SDPA = {"attn_implementation": "sdpa"}


def encoders() -> Iterator[Case]:
    yield from of_one_size()
    yield from of_any_size()
    yield from of_sounds()


def case(name: str, config: EncoderConfig, reference: Any, items: Items, run_reference: Any) -> Case:
    def run_ours(component: Any) -> Tensor:
        features: Features = component(items)
        return features.hidden_NW

    return Case(name=name, config=config, reference=reference, run_ours=run_ours, run_reference=run_reference, footnote=SIDE_BY_SIDE)


# ---- pictures of one size: 4 of 64 x 64 pixels, 256 patches each

IMAGES = 4
PIXELS: dict[str, Any] = {"image_size": 64, "patch_size": 4}


def of_one_size() -> Iterator[Case]:
    pixels = torch.randn(IMAGES, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pictures, tiles = (Items({"pixel_values": pixels}, (size,) * IMAGES) for size in ((64, 64), (1,)))

    def patches(reference: Any) -> Tensor:
        hidden: Tensor = reference(pixels).last_hidden_state
        return hidden.flatten(0, 1)

    def patches_behind_class(reference: Any) -> Tensor:
        hidden: Tensor = reference(pixels).last_hidden_state
        return hidden[:, 1:].flatten(0, 1)

    siglip = transformers.SiglipVisionConfig(**THEIRS, **PIXELS, **SDPA, vision_use_head=False)
    config = SiglipConfig(**OURS, **PIXELS, final_norm=True, attention_pooling_head=False)
    yield case("siglip", config, transformers.SiglipVisionModel(siglip), pictures, patches)
    whole = HfEncoderConfig(name="siglip", config={**THEIRS, **PIXELS, "vision_use_head": False})
    yield case("siglip as hf_encoder", whole, transformers.SiglipVisionModel(siglip), pictures, patches)
    clip = transformers.CLIPVisionConfig(**THEIRS, **PIXELS, **SDPA)
    yield case("clip", ClipConfig(**OURS, **PIXELS, feature_layer=-1), transformers.CLIPVisionModel(clip), pictures, patches_behind_class)
    sides = {"image_size": [64, 64], "patch_size": [4, 4]}
    for name, ours, theirs in (
        ("intern_vit as the 300M", {}, {"attention_bias": True}),
        (
            "intern_vit as the 6B",
            {"normalization": "RMSNorm", "add_qkv_bias": False, "qk_layernorm": True},
            {"norm_type": "rms_norm", "attention_bias": False, "use_qk_norm": True},
        ),
    ):
        reference = transformers.InternVLVisionModel(transformers.InternVLVisionConfig(**THEIRS, **sides, **SDPA, **theirs))
        yield case(name, InternVitConfig(**OURS, **PIXELS, **ours), reference, tiles, patches_behind_class)


# ---- pictures of any size, with their mergers

SIZES: Sequence[Shape] = ((1, 16, 24), (1, 8, 8), (1, 24, 14), (1, 10, 20))
"""Four images, 984 patches in all."""
VISION: dict[str, Any] = {
    "depth": 4,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_heads": 8,
    "out_hidden_size": 256,
    "patch_size": 4,
}


def of_any_size() -> Iterator[Case]:
    qwen25 = Qwen25VlConfig(**OURS, patch_size=4, window_size=32, fullatt_block_indexes=[3])
    theirs = Qwen2_5_VLVisionConfig(**VISION, **SDPA, window_size=32, fullatt_block_indexes=[3])
    reference = Qwen2_5_VisionTransformerPretrainedModel(theirs)
    yield with_merger("qwen2_5_vl, 4 images", qwen25, reference, normalization="RMSNorm")

    levels = {"num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1, 2]}
    qwen3 = transformers.Qwen3VLVisionModel(transformers.Qwen3VLVisionConfig(**VISION, **SDPA, **levels))
    yield with_merger("qwen3_vl, 4 images, 3 levels", Qwen3VlConfig(**OURS, patch_size=4, **levels), qwen3, normalization="LayerNorm")


def with_merger(
    name: str,
    encoder: NativeResolutionConfig,
    reference: Any,
    *,
    normalization: str,
    width: int = 256,
    sizes: Sequence[Shape] = SIZES,
    like: Tensor | None = None,
) -> Case:
    """Embeddings so wide, and behind them those of the levels. Pixels are of the kind of `like`."""
    number = sum(rows * columns for _, rows, columns in sizes)
    pixels = torch.randn(number, 3 * 2 * encoder.patch_size**2, generator=torch.Generator().manual_seed(0))
    pixels, grids = (pixels, torch.tensor(sizes)) if like is None else (pixels.to(like), torch.tensor(sizes, device=like.device))
    items = Items({"pixel_values": pixels}, tuple(sizes))
    merger = PatchMergerConfig(
        input_size=encoder.hidden_size, hidden_size=width, normalization=normalization, num_levels=encoder.num_levels
    )

    def run_ours(model: Any) -> Tensor:
        features: Features = model["image_projector"](model["image_encoder"](items))
        return torch.cat([features.hidden_NW, *features.levels])

    def run_reference(reference: Any) -> Tensor:
        output = reference(pixels, grid_thw=grids)
        return torch.cat([output.pooler_output, *(output.get("deepstack_features") or ())])

    return Case(
        name=name,
        config={"image_encoder": encoder, "image_projector": merger},
        reference=reference,
        run_ours=run_ours,
        run_reference=run_reference,
    )


# ---- sounds: two, of up to ten seconds

POSITIONS = 500
SOUND: dict[str, Any] = {"num_mel_bins": 80, "max_source_positions": POSITIONS}


def of_sounds() -> Iterator[Case]:
    mel = torch.randn(2, 2 * POSITIONS, 80, generator=torch.Generator().manual_seed(0))
    theirs = {"encoder_layers": 4, "d_model": 256, "encoder_ffn_dim": 1024, "encoder_attention_heads": 8, **SOUND, **SDPA}

    def features(reference: Any) -> Tensor:
        hidden: Tensor = reference(mel.transpose(1, 2)).last_hidden_state
        return hidden.flatten(0, 1)

    whole = Items({"input_features": mel.flatten(0, 1)}, ((2 * POSITIONS,),) * 2)
    whisper = WhisperEncoder(transformers.WhisperConfig(**theirs))
    yield case("whisper, 10 s and 10 s", WhisperConfig(**OURS, **SOUND), whisper, whole, features)
    for name, frames in (("10 s and 10 s", (1000, 1000)), ("2 s and 7 s", (200, 700))):
        reference = transformers.Qwen2AudioEncoder(transformers.Qwen2AudioEncoderConfig(**theirs))
        yield qwen2_audio(f"qwen2_audio, {name}", frames, mel, reference)


def qwen2_audio(name: str, frames: Sequence[int], mel: Tensor, reference: Any) -> Case:
    """The reference pads every sound to the longest that there may be, as its processor does, under the mask that its model makes."""
    config = Qwen2AudioConfig(**OURS, **SOUND)
    rows = torch.cat([sound[: config.num_rows((length,))] for sound, length in zip(mel, frames, strict=True)])
    positions, tokens = reference._get_feat_extract_output_lengths(torch.tensor(frames))
    heard = (torch.arange(POSITIONS) < positions[:, None])[:, None, None].expand(-1, 1, POSITIONS, -1)
    mask = None if heard.all() else heard

    def features(reference: Any) -> Tensor:
        hidden = reference(mel.transpose(1, 2), attention_mask=mask).last_hidden_state
        return torch.cat([sound[:number] for sound, number in zip(hidden, tokens.tolist(), strict=True)])

    return case(name, config, reference, Items({"input_features": rows}, tuple((length,) for length in frames)), features)
