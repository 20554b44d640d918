"""LLaVA-OneVision 1.5 in plain torch around transformers' Qwen3, after its published definition: transformers has no such class.

Names of parameters are those on disk. config.json is written here, as the published class writes it, and not by the table that is tested.
Null keys are those that the class has and that say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5


class Block(nn.Module):
    def __init__(self, width: int, ffn: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPSILON), nn.LayerNorm(width, eps=EPSILON)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, ffn), "fc2": nn.Linear(ffn, width)})

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """Of one frame: `x` [tokens, width], `angles` [tokens, half a head]."""
        queries, keys, values = self.attn["qkv"](self.norm1(x)).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        seen = F.scaled_dot_product_attention(turn(queries, angles), turn(keys, angles), values)
        x = x + self.attn["proj"](seen.transpose(0, 1).flatten(1))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


def turn(heads: Tensor, angles: Tensor) -> Tensor:
    turned = torch.complex(*heads.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), dim=-1)


class Merger(nn.Module):
    def __init__(self, width: int, merged: int, out: int) -> None:
        super().__init__()
        self.ln_q = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = nn.Sequential(nn.Linear(merged, merged), nn.GELU(), nn.Linear(merged, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).view(-1, self.mlp[0].in_features))


class Tower(nn.Module):
    """Frames one after another, each behind a class token that leaves again; patches come block by block."""

    def __init__(self, vision: Mapping[str, Any]) -> None:
        super().__init__()
        width, heads, side = vision["hidden_size"], vision["num_heads"], vision["patch_size"]
        self.merge, self.half = vision["spatial_merge_size"], width // heads // 2
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(vision["in_channels"], width, side, side, bias=False)})
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.class_pos_emb = nn.Parameter(torch.empty(1, self.half))
        self.pre_layernorm = nn.LayerNorm(width, eps=EPSILON)
        self.blocks = nn.ModuleList(Block(width, vision["intermediate_size"], heads) for _ in range(vision["depth"]))
        self.merger = Merger(width, self.merge**2 * width, vision["text_hidden_size"])

    def forward(self, pixels: Tensor, grids: Tensor) -> Tensor:
        patches = pixels @ self.patch_embed["proj"].weight.flatten(1).T
        shapes = [(rows, columns) for frames, rows, columns in grids.tolist() for _ in range(frames)]
        frames = patches.split([rows * columns for rows, columns in shapes])
        return self.merger(torch.cat([self.features(frame, *shape) for frame, shape in zip(frames, shapes, strict=True)]))

    def features(self, frame: Tensor, rows: int, columns: int) -> Tensor:
        x = self.pre_layernorm(torch.cat((self.class_embedding[None], frame)))
        angles = torch.cat((self.class_pos_emb, self.angles(rows, columns)))
        for block in self.blocks:
            x = block(x, angles)
        return x[1:]

    def angles(self, rows: int, columns: int) -> Tensor:
        """A patch's row turns the first half of the pairs, its column the second."""
        frequencies = 10_000.0 ** -(torch.arange(0, self.half, 2) / self.half)
        places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1)
        blocks = places.view(rows // self.merge, self.merge, columns // self.merge, self.merge, 2).transpose(1, 2).reshape(-1, 2)
        return (blocks[..., None] * frequencies).flatten(1)


class LlavaOv15(nn.Module):
    """Features stand where the placeholders are, and positions count on through them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config
        text = {name: value for name, value in config["text_config"].items() if name not in ("model_type", "rope_theta", "rope_scaling")}
        rotary = {"rope_type": "default", "rope_theta": config["text_config"]["rope_theta"]}
        self.visual = Tower(config["vision_config"])
        self.model = transformers.Qwen3Model(transformers.Qwen3Config(**text, rope_parameters=rotary))
        self.lm_head = nn.Linear(text["hidden_size"], text["vocab_size"], bias=False)
        if self.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def tied(self) -> bool:
        return bool(self.config["text_config"].get("tie_word_embeddings", False))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **items: Any) -> SimpleNamespace:
        hidden = self.model.embed_tokens(input_ids)
        for name, pixels, grids in (("image", "pixel_values", "image_grid_thw"), ("video", "pixel_values_videos", "video_grid_thw")):
            places = (input_ids == self.config[f"{name}_token_id"]).unsqueeze(-1)
            hidden = hidden.masked_scatter(places, self.visual(items[pixels], items[grids]))
        hidden = self.model(inputs_embeds=hidden, attention_mask=attention_mask).last_hidden_state
        return SimpleNamespace(logits=self.lm_head(hidden))

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items() if not (self.tied and name == "lm_head.weight")}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config))


def published_config(vision: Mapping[str, Any], text: Mapping[str, Any], token_ids: Mapping[str, int]) -> dict[str, Any]:
    """config.json as the class writes it, of these sizes; `tie_word_embeddings` stands there where it is true."""
    return {
        "architectures": ["LLaVAOneVision1_5_ForConditionalGeneration"],
        "model_type": "llavaonevision1_5",
        "image_token_id": token_ids["image_token_id"],
        "video_token_id": token_ids["video_token_id"],
        "vocab_size": text["vocab_size"],
        "torch_dtype": "float32",
        "transformers_version": "4.53.0",
        "vision_config": {
            "model_type": "rice_vit",
            "embed_dim": vision["hidden_size"],
            "hidden_act": "gelu",
            "in_channels": 3,
            "spatial_merge_size": 2,
            "temporal_patch_size": 1,
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-05,
            "text_hidden_size": text["hidden_size"],
            **vision,
        },
        "text_config": {
            "model_type": "LLaVAOneVision1_5_text",
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-06,
            "use_cache": True,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            "sliding_window": None,
            "max_window_layers": text["num_hidden_layers"],
            "layer_types": ["full_attention"] * text["num_hidden_layers"],
            "rope_scaling": None,
            "image_token_id": None,
            "video_token_id": None,
            **text,
        },
    }
