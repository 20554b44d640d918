"""What this plugin adds to LoongForge: recipes, complete compositions and the demos' data."""

from loongforge_core.component import ComponentSpec, DatasetSpec
from loongforge_core.registry.hooks import hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="recipe",
            name="llava",
            summary="LLaVA: one image encoder, a token-wise projector, any language model; published as LlavaForConditionalGeneration",
            modalities=("image",),
            config="loongforge_models.llava.config:LlavaConfig",
            weights="loongforge_models.llava.weights:table",
            reference="transformers.LlavaForConditionalGeneration",
            paper="arXiv:2310.03744",
            left_out="tiles of LLaVA-NeXT",
        ),
        ComponentSpec(
            kind="recipe",
            name="intern_vl",
            summary="InternVL: images in tiles, pixel shuffle, any language model; published by OpenGVLab and for transformers",
            modalities=("image", "video"),
            config="loongforge_models.intern_vl.config:InternVlRecipeConfig",
            weights="loongforge_models.intern_vl.weights:table",
            reference="transformers.InternVLForConditionalGeneration",
            paper="arXiv:2404.16821",
            left_out="exporting OpenGVLab's format, which is read, where transformers has a class for the mix",
        ),
        ComponentSpec(
            kind="recipe",
            name="qwen2_5_vl",
            summary="Qwen2.5-VL: images and videos of any size, positions in time, height and width, time by the second",
            modalities=("image", "video"),
            config="loongforge_models.qwen2_5_vl.config:Qwen25VlRecipeConfig",
            weights="loongforge_models.qwen2_5_vl.weights:table",
            reference="transformers.Qwen2_5_VLForConditionalGeneration",
            paper="arXiv:2502.13923",
            left_out="other numbers of tokens a second than 2",
        ),
        ComponentSpec(
            kind="recipe",
            name="qwen3_vl",
            summary="Qwen3-VL, dense and with experts: levels, positions in time, height and width, time in words",
            modalities=("image", "video"),
            config="loongforge_models.qwen3_vl.config:Qwen3VlRecipeConfig",
            weights="loongforge_models.qwen3_vl.weights:table",
            reference="transformers.Qwen3VLForConditionalGeneration",
            paper="arXiv:2511.21631",
        ),
        ComponentSpec(
            kind="recipe",
            name="llava_ov_1_5",
            summary="LLaVA-OneVision 1.5: images of any size written as Qwen2.5-VL writes them, plain positions",
            modalities=("image", "video"),
            config="loongforge_models.llava_ov_1_5.config:LlavaOv15RecipeConfig",
            weights="loongforge_models.llava_ov_1_5.weights:table",
            reference="LLaVAOneVision1_5_ForConditionalGeneration of EvolvingLMMs-Lab/LLaVA-OneVision-1.5; transformers has none",
            paper="arXiv:2509.23661",
            left_out="the format that transformers is about to have, llava_onevision1_5",
        ),
        ComponentSpec(
            kind="recipe",
            name="qwen2_audio",
            summary="Qwen2-Audio: sounds of up to thirty seconds, a linear projector, Qwen2",
            modalities=("audio",),
            config="loongforge_models.qwen2_audio.config:Qwen2AudioRecipeConfig",
            weights="loongforge_models.qwen2_audio.weights:table",
            reference="transformers.Qwen2AudioForConditionalGeneration",
            paper="arXiv:2407.10759",
        ),
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_models.configs"]


@hookimpl
def loongforge_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="digits",
            summary="1,797 scanned digits of scikit-learn as questions with two, one and no images",
            prepare="loongforge_models.digits.prepare:prepare",
        ),
        DatasetSpec(
            name="tones",
            summary="synthesised melodies and beeps as questions with two, one and no sounds",
            prepare="loongforge_models.tones.prepare:prepare",
        ),
        DatasetSpec(
            name="digits_and_tones",
            summary="scanned digits and synthesised beeps: questions with an image, a sound, both and neither",
            prepare="loongforge_models.digits_and_tones.prepare:prepare",
        ),
    ]
