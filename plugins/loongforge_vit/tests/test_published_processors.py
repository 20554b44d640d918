"""What every processor writes of itself is what transformers loads without being told a class, and it makes the same pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loongforge_vit.clip.config import ClipConfig
from loongforge_vit.clip.processor import ClipProcessor
from loongforge_vit.intern_vit.config import InternVitConfig
from loongforge_vit.intern_vit.processor import InternVitProcessor
from loongforge_vit.qwen2_5_vl.config import Qwen25VlConfig
from loongforge_vit.qwen2_5_vl.processor import Qwen25VlProcessor
from loongforge_vit.qwen3_vl.config import Qwen3VlConfig
from loongforge_vit.qwen3_vl.processor import Qwen3VlProcessor
from loongforge_vit.rice_vit.config import RiceVitConfig
from loongforge_vit.rice_vit.processor import RiceVitProcessor
from loongforge_vit.siglip.config import SiglipConfig
from loongforge_vit.siglip.processor import SiglipProcessor
from pictures import noise
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import load_image

COLOURS: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}
PROCESSORS = {
    "clip": ClipProcessor(ClipConfig(image_size=56, **COLOURS)),
    "intern_vit": InternVitProcessor(InternVitConfig(image_size=56, min_tiles=2, max_tiles=9, **COLOURS)),
    "intern_vit of one tile": InternVitProcessor(InternVitConfig(image_size=56, max_tiles=1, **COLOURS)),
    "qwen2_5_vl": Qwen25VlProcessor(Qwen25VlConfig(**COLOURS)),
    "qwen3_vl": Qwen3VlProcessor(Qwen3VlConfig(min_pixels=4000, max_pixels=20_000, **COLOURS)),
    "rice_vit": RiceVitProcessor(RiceVitConfig(max_pixels=20_000, **COLOURS)),
    "siglip": SiglipProcessor(SiglipConfig(image_size=56, **COLOURS)),
}
SIZES = [(1, 1), (56, 56), (301, 40), (9, 700)]


@pytest.mark.parametrize("name", PROCESSORS)
def test_transformers_makes_the_same_pixels(name: str, tmp_path: Path) -> None:
    ours = PROCESSORS[name]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours.published()))
    theirs = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")  # ours is Pillow; torchvision rounds otherwise
    for height, width in SIZES:
        path = tmp_path / f"{height}_{width}.png"
        Image.fromarray(noise(height, width, 3)).save(path)
        expected = theirs(load_image(str(path)), return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(ours(path).inputs["pixel_values"], expected, err_msg=f"{height} x {width}")
