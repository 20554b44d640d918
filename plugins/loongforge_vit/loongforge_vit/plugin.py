"""What this plugin adds to LoongForge."""

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="encoder",
            name="siglip",
            summary="SigLIP's vision tower: fixed-size images, learned positions, no class token",
            modalities=("image",),
            config="loongforge_vit.siglip.config:SiglipConfig",
            model="loongforge_vit.siglip.model:SiglipEncoder",
            weights="loongforge_vit.siglip.weights:table",
            processor="loongforge_vit.siglip.processor:SiglipProcessor",
            reference="transformers.SiglipVisionModel",
            paper="arXiv:2303.15343",
            left_out="running the attention-pooling head, which is carried; other resolutions than the config's",
        ),
        ComponentSpec(
            kind="encoder",
            name="intern_vit",
            summary="InternViT: images cut into tiles of one size, videos frame by frame, learned positions, scaled residual branches",
            modalities=("image", "video"),
            config="loongforge_vit.intern_vit.config:InternVitConfig",
            model="loongforge_vit.intern_vit.model:InternVitEncoder",
            weights="loongforge_vit.intern_vit.weights:table",
            processor="loongforge_vit.intern_vit.processor:InternVitProcessor",
            reference="transformers.InternVLVisionModel",
            paper="arXiv:2312.14238",
            left_out="stochastic depth, other resolutions than the config's",
        ),
        ComponentSpec(
            kind="encoder",
            name="clip",
            summary="CLIP's vision tower: the middle of an image, learned positions, a class token that is dropped or kept",
            modalities=("image",),
            config="loongforge_vit.clip.config:ClipConfig",
            model="loongforge_vit.clip.model:ClipEncoder",
            weights="loongforge_vit.clip.weights:table",
            processor="loongforge_vit.clip.processor:ClipProcessor",
            reference="transformers.CLIPVisionModel",
            paper="arXiv:2103.00020",
            left_out="the text half, the projection that joins both, other resolutions than the config's",
        ),
        ComponentSpec(
            kind="encoder",
            name="qwen2_5_vl",
            summary="Qwen2.5-VL's vision tower: images and videos of any size, windows in most layers, rotary positions",
            modalities=("image", "video"),
            config="loongforge_vit.qwen2_5_vl.config:Qwen25VlConfig",
            model="loongforge_vit.qwen2_5_vl.model:Qwen25VlEncoder",
            weights="loongforge_vit.qwen2_5_vl.weights:table",
            processor="loongforge_vit.qwen2_5_vl.processor:Qwen25VlProcessor",
            reference="transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel",
            paper="arXiv:2502.13923",
            left_out="choosing some frames of a video, opening films",
        ),
        ComponentSpec(
            kind="encoder",
            name="qwen3_vl",
            summary="Qwen3-VL's vision tower: images and videos of any size, learned and rotary positions, levels (DeepStack)",
            modalities=("image", "video"),
            config="loongforge_vit.qwen3_vl.config:Qwen3VlConfig",
            model="loongforge_vit.qwen3_vl.model:Qwen3VlEncoder",
            weights="loongforge_vit.qwen3_vl.weights:table",
            processor="loongforge_vit.qwen3_vl.processor:Qwen3VlProcessor",
            reference="transformers.Qwen3VLVisionModel",
            paper="arXiv:2511.21631",
            left_out="choosing some frames of a video, opening films",
        ),
        ComponentSpec(
            kind="encoder",
            name="rice_vit",
            summary="RICE-ViT, LLaVA-OneVision 1.5's tower: images and videos of any size, a class token that is dropped",
            modalities=("image", "video"),
            config="loongforge_vit.rice_vit.config:RiceVitConfig",
            model="loongforge_vit.rice_vit.model:RiceVitEncoder",
            weights="loongforge_vit.rice_vit.weights:table",
            processor="loongforge_vit.rice_vit.processor:RiceVitProcessor",
            reference="RiceTransformerPretrainedModel of EvolvingLMMs-Lab/LLaVA-OneVision-1.5; transformers has none",
            paper="arXiv:2507.20025",
            left_out="choosing some frames of a video, opening films",
        ),
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_vit.configs"]
